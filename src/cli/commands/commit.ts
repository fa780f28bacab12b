import { statSync } from 'node:fs'
import type { Command } from 'commander'
import { wordsOf } from '../help.js'
import { append } from '../key-values.js'
import { print } from '../output.js'
import { ProgressBars } from '../progress.js'
import { onStore, withStore } from '../store-command.js'

interface CommitArguments {
  author?: string
  message?: string
  change?: string[]
  base?: string
}

/** `lamina commit`: a writable layer becomes an image. */
export function register(program: Command): void {
  registerCommit(program)
}

/** Also as `lamina container commit`. */
export function registerCommit(parent: Command): void {
  const command = parent.command('commit')
  const words = wordsOf(command)
  onStore(command)
    .description('make an image of what a container, or any upperdir, changed')
    .argument('<container|upperdir>', 'a container, or the path of an upperdir')
    .argument('[name]', 'the name of the image')
    .option('--base <image>', 'of an upperdir: the image that it stands on')
    .option('-a, --author <who>', 'who made it, in the history')
    .option('-m, --message <text>', 'a comment in the history')
    .option(
      '-c, --change <instruction>',
      "change the config: 'CMD [\"sh\"]', 'ENV A=b'; may be repeated",
      append,
    )
    .addHelpText(
      'after',
      `
Examples:
  ${words} web registry.example.com/web:2
  ${words} --base debian:12 /srv/up debian-with-vim`,
    )
    .action(async (what: string, name: string | undefined, options: CommitArguments, command: Command) => {
      await withStore(command, async (store, signal) => {
        const { commitContainer, commitUpper } = await import('../../manager/image-create.js')
        using bars = new ProgressBars()
        const more = {
          signal,
          onBytes: (done: number) => bars.update('commit', 'committing', done, undefined),
          ...(name === undefined ? {} : { name }),
          ...(options.author === undefined ? {} : { author: options.author }),
          ...(options.message === undefined ? {} : { comment: options.message }),
          ...(options.change === undefined ? {} : { changes: options.change }),
        }
        const isDir = what.includes('/') && statSync(what, { throwIfNoEntry: false })?.isDirectory() === true
        const image = isDir
          ? await commitUpper(store, what, options.base, more)
          : await commitContainer(store, what, more)
        print(image.id)
      })
    })
}
