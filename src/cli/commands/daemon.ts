import type { Command } from 'commander'
import { bytesOf } from '../argv.js'
import { CliError, print, printable } from '../output.js'

/** `lamina daemon`: the processes that serve mounts. */
export function register(program: Command): void {
  const group = program.command('daemon').description('the processes that serve mounts')
  group
    .command('restart')
    .description('hand a running mount to this version of the program; no user of it notices')
    .argument('[mountpoint...]')
    .option('-a, --all', 'every mount of this user that has a keeper')
    .addHelpText(
      'after',
      `
Needs a mount with a keeper (keeper=1). Where the new program does not start, the one before goes on, and this ends with 1.

Examples:
  lamina daemon restart /mnt/merged
  lamina daemon restart --all`,
    )
    .action(async (given: string[], options: { all?: boolean }) => {
      const { listMounts, restartDaemon } = await import('../../daemon/client.js')
      const all = options.all === true
      if (all === given.length > 0) throw new CliError('give mountpoints, or --all', 2)
      const mountpoints = all
        ? listMounts()
            .filter(mount => mount.keeper !== undefined)
            .map(mount => mount.mountpoint)
        : given.map(bytesOf)
      for (const mountpoint of mountpoints) {
        try {
          const { before, now } = await restartDaemon(mountpoint)
          print(`${printable(mountpoint)}: pid ${before} -> ${now}`)
        } catch (error) {
          process.stderr.write(`lamina: ${error instanceof Error ? error.message : String(error)}\n`)
          process.exitCode = 1
        }
      }
    })
}
