import type { Command } from 'commander'
import { formatOption } from '../main.js'
import { print, printJson, table, type Format } from '../output.js'

/** `lamina doctor`: what this host can do. */
export function register(program: Command): void {
  program
    .command('doctor')
    .description('say what this host can do for mounts, what is lost without it, and how to get it')
    .addOption(formatOption())
    .addHelpText(
      'after',
      `
Ends with 0 when mounts can be made here, with 1 when they cannot.

Examples:
  lamina doctor
  sudo lamina doctor --format json`,
    )
    .action(async (options: { format: Format }) => {
      const { examineHost } = await import('../../daemon/client.js')
      const findings = await examineHost()
      if (findings.some(({ state }) => state === 'fatal')) process.exitCode = 1
      if (options.format === 'json') return printJson(findings)
      print(
        table(
          ['', 'WHAT', 'FOUND'],
          findings.map(({ name, state, found }) => [state, name, found]),
        ),
      )
      for (const { name, state, without, remedy } of findings) {
        if (state === 'ok') continue
        print(`\n${name}\n  lost:   ${without}\n  remedy: ${remedy}`)
      }
    })
}
