/** What goes into containers and out of them: files, and the bundle for a runtime. */
import type { Command } from 'commander'
import { CliError, print } from '../output.js'
import { onStore, stdoutForBytes, withStore } from '../store-command.js'

interface CopyArguments {
  archive?: boolean
  followLink?: boolean
}

/** `NAME:PATH` of a container; a path of the host begins with `/` or `.`, or has no colon. Source: docker/cli cp.go */
function splitPlace(text: string): { container: string | undefined; path: string } {
  const colon = text.indexOf(':')
  if (colon <= 0 || text.startsWith('/') || text.startsWith('.')) return { container: undefined, path: text }
  return { container: text.slice(0, colon), path: text.slice(colon + 1) || '/' }
}

export function register(container: Command): void {
  onStore(container.command('cp'))
    .description('copy files between a container and the host')
    .argument('<source>', 'CONTAINER:PATH, a path of the host, or - for a tar on standard input')
    .argument('<destination>', 'CONTAINER:PATH, a path of the host, or - for a tar on standard output')
    .option(
      '-a, --archive',
      'keep owners; root in the container, or you on the host, owns everything otherwise',
    )
    .option('-L, --follow-link', 'of a source that is a symlink, copy what it leads to')
    .addHelpText(
      'after',
      `
DIR/. is what is in a directory; DIR is the directory itself, which goes into a destination that is there and becomes
one that is not. The directory that the destination lies in must be there. Out of a container without --archive come no
devices, and no setuid, setgid or file capabilities.

Examples:
  lamina container cp web:/etc/nginx ./nginx
  lamina container cp site/. web:/var/www
  lamina container cp web:/var/log - | tar -t`,
    )
    .action(async (source: string, destination: string, options: CopyArguments, command: Command) => {
      const from = splitPlace(source)
      const to = splitPlace(destination)
      if ((from.container === undefined) === (to.container === undefined)) {
        throw new CliError('one of the two is CONTAINER:PATH, and only one', 2)
      }
      await withStore(command, async (store, signal) => {
        const { copyIn, copyInTar, copyOut, copyOutTar } = await import('../../manager/containers/copy.js')
        const how = {
          signal,
          archive: options.archive === true,
          followLink: options.followLink === true,
        }
        if (from.container !== undefined && to.path === '-') {
          const { pipeline } = await import('node:stream/promises')
          const out = stdoutForBytes('a tar')
          await pipeline(copyOutTar(store, from.container, from.path, how), out, { signal, end: false })
        } else if (from.container !== undefined) {
          await copyOut(store, from.container, from.path, to.path, how)
        } else if (from.path === '-') {
          await copyInTar(store, process.stdin, to.container ?? '', to.path, how)
        } else {
          await copyIn(store, from.path, to.container ?? '', to.path, how)
        }
      })
    })

  onStore(container.command('bundle'))
    .description('mount the rootfs and write an OCI bundle, for a runtime that you start yourself')
    .argument('<container>')
    .argument('<directory>', 'where config.json goes; made where it is missing')
    .argument('[command...]', "instead of the container's own")
    .option('-t, --tty', 'with a terminal')
    .passThroughOptions()
    .addHelpText(
      'after',
      `
Example:
  lamina container bundle web /tmp/web && runc run --bundle /tmp/web web; lamina container umount web`,
    )
    .action(
      async (
        ref: string,
        directory: string,
        words: string[],
        options: { tty?: boolean },
        command: Command,
      ) => {
        await withStore(command, async store => {
          const { writeContainerBundle } = await import('../../manager/containers/process.js')
          print(await writeContainerBundle(store, ref, directory, words, options.tty === true))
        })
      },
    )
}
