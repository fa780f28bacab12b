import { spawn } from 'node:child_process'
import type { Command } from 'commander'
import { CliError } from '../output.js'
import { endNamespace, enterNamespace } from '../store-command.js'

/** `lamina unshare`: a look from inside. */
export function register(program: Command): void {
  program
    .command('unshare')
    .description(
      "run a command in this user's namespace, where his store's files have their owners and its mounts are",
    )
    .argument('[command...]', 'your shell otherwise')
    .option('--end', 'end the namespace, which nothing may use any more; the next command makes a new one')
    .passThroughOptions()
    .addHelpText(
      'after',
      `
An ordinary user's commands on the store all run in one user and mount namespace: there he is root, and has the ids that
/etc/subuid and /etc/subgid give him. It goes on while anything lives in it. Root needs none: the command just runs.

Exit code: the command's.

Examples:
  lamina unshare
  lamina unshare ls -ln .local/share/lamina/volumes
  lamina unshare node backup.js   # a program that uses the library
  lamina unshare --end            # after a change of /etc/subuid, or to leave nothing behind`,
    )
    .action(async (words: string[], options: { end?: boolean }) => {
      if (options.end === true) {
        if (words.length > 0) throw new CliError('--end takes no command', 2)
        await endNamespace()
        return
      }
      const command = words.length > 0 ? words : [process.env['SHELL'] || '/bin/sh']
      await enterNamespace(command)
      process.exitCode = await here(command)
    })
}

/** For root. */
function here([program = '', ...args]: readonly string[]): Promise<number> {
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, { stdio: 'inherit' })
    // A terminal's signals reach the child by themselves.
    for (const signal of ['SIGINT', 'SIGQUIT'] as const) process.on(signal, () => undefined)
    child.once('error', error => reject(new CliError(`cannot run ${program}: ${error.message}`)))
    child.once('exit', (code, signal) => resolve(code ?? (signal === 'SIGKILL' ? 137 : 143)))
  })
}
