import type { Command } from 'commander'
import { bytesOf, workingDirectory } from '../argv.js'
import { formatOption } from '../main.js'
import { jsonName, print, printable, printJson, type Format } from '../output.js'

/** `lamina diff`: what an upperdir adds, changes and deletes. */
export function register(program: Command): void {
  program
    .command('diff')
    .description('list added (A), changed (C) and deleted (D) paths of an upperdir')
    .argument('<directory>', 'an upperdir, or the mountpoint of a writable Lamina mount')
    .addOption(formatOption())
    .addHelpText(
      'after',
      `
What is told comes from the upperdir alone. A file that an editor replaced by renaming a new one over it is A.

Examples:
  lamina diff /srv/upper
  lamina diff /mnt/merged --format json`,
    )
    .action(async (directory: string, options: { format: Format }) => {
      const sys = await import('../../sys/index.js')
      const { diffUpper } = await import('../../format/diff.js')
      const { absolute, upperOf } = await import('../../daemon/client.js')
      sys.raiseNofile()
      const path = absolute(workingDirectory(), bytesOf(directory))
      using root = sys.openat(sys.AT_FDCWD, upperOf(path) ?? path, sys.O_RDONLY | sys.O_DIRECTORY)
      if (options.format === 'json') {
        printJson([...diffUpper(root)].map(change => ({ ...change, ...jsonName('path', change.path) })))
        return
      }
      let lines = ''
      for (const change of diffUpper(root)) {
        lines += `${change.kind} ${printable(change.path)}\n`
        if (lines.length > 65536) {
          process.stdout.write(lines)
          lines = ''
        }
      }
      if (lines !== '') print(lines)
    })
}
