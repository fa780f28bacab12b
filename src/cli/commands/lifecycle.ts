import type { Command } from 'commander'
import { wordsOf } from '../help.js'
import { CliError, print } from '../output.js'
import { onStore, withStore } from '../store-command.js'

/** `lamina start`, `stop`, `restart`, `kill`, `wait`, `logs`: containers that run on by themselves. */
export function register(program: Command): void {
  registerLifecycle(program)
}

/** Also as `lamina container start` and so on. */
export function registerLifecycle(parent: Command): void {
  registerStart(parent)
  registerStop(parent)
  registerRestart(parent)
  registerKill(parent)
  registerWait(parent)
  registerLogs(parent)
}

/** Seconds; a negative number waits for ever. */
function secondsOf(text: string): number {
  if (!/^-?\d{1,9}$/.test(text)) throw new CliError(`--time ${text}: write seconds, e.g. 10`, 2)
  return Number(text)
}

function registerStart(parent: Command): void {
  const command = parent.command('start')
  const words = wordsOf(command)
  onStore(command)
    .description('run the command of a container that was created, or has ended, in the background')
    .argument('<container...>')
    .option('-a, --attach', 'stay, with its output here; its exit code is passed on')
    .option('-i, --interactive', 'with --attach: pass standard input on')
    .addHelpText('after', `\nExamples:\n  ${words} web\n  ${words} -a -i shell`)
    .action(
      async (refs: string[], options: { attach?: boolean; interactive?: boolean }, command: Command) => {
        if (options.attach === true && refs.length > 1) throw new CliError('--attach takes one container', 2)
        if (options.interactive === true && options.attach !== true)
          throw new CliError('--interactive needs --attach: in the background there is no input', 2)
        if (options.attach === true) {
          await startAttached(refs[0] ?? '', options.interactive === true, command)
          return
        }
        await withStore(command, async (store, signal) => {
          const { runDetached } = await import('../../manager/containers/detached.js')
          for (const ref of refs) {
            await runDetached(store, { start: store.containers.find(ref).id }, signal)
            print(ref)
          }
        })
      },
    )
}

async function startAttached(ref: string, interactive: boolean, command: Command): Promise<void> {
  process.exitCode = await withStore(
    command,
    async store => {
      const { attached, startContainer } = await import('../../manager/containers/run.js')
      const { specOf } = await import('../../manager/containers/container-spec.js')
      const terminal = specOf(store.containers.find(ref)).process?.terminal === true
      if (terminal && !(process.stdin.isTTY && process.stdout.isTTY))
        throw new CliError(`container ${ref} wants a terminal, and standard input and output are none`, 2)
      return await startContainer(store, ref, attached(interactive || terminal))
    },
    { ownSignals: true },
  )
}

function registerStop(parent: Command): void {
  const command = parent.command('stop')
  const words = wordsOf(command)
  onStore(command)
    .description("end a container's command: ask it, and end it when it does not")
    .argument('<container...>')
    .option('-t, --time <seconds>', 'how long it may take; -1 for ever', secondsOf, 10)
    .addHelpText(
      'after',
      `
Asked is with the image's STOPSIGNAL, SIGTERM otherwise; then it is SIGKILL.

Examples:
  ${words} web
  ${words} -t 60 db`,
    )
    .action(async (refs: string[], options: { time: number }, command: Command) => {
      await withStore(command, async (store, signal) => {
        const { stopContainer } = await import('../../manager/containers/stop.js')
        for (const ref of refs) {
          await stopContainer(store, ref, options.time, signal)
          print(ref)
        }
      })
    })
}

function registerRestart(parent: Command): void {
  const command = parent.command('restart')
  const words = wordsOf(command)
  onStore(command)
    .description("'stop' and 'start'")
    .argument('<container...>')
    .option('-t, --time <seconds>', 'how long stopping may take; -1 for ever', secondsOf, 10)
    .addHelpText('after', `\nExample:\n  ${words} web`)
    .action(async (refs: string[], options: { time: number }, command: Command) => {
      await withStore(command, async (store, signal) => {
        const { stopContainer } = await import('../../manager/containers/stop.js')
        const { runDetached } = await import('../../manager/containers/detached.js')
        for (const ref of refs) {
          const { id } = store.containers.find(ref)
          await stopContainer(store, id, options.time, signal)
          await runDetached(store, { start: id }, signal)
          print(ref)
        }
      })
    })
}

function registerKill(parent: Command): void {
  const command = parent.command('kill')
  const words = wordsOf(command)
  onStore(command)
    .description("send a signal to a container's command")
    .argument('<container...>')
    .option('-s, --signal <signal>', 'by name or number', 'KILL')
    .addHelpText('after', `\nExample:\n  ${words} -s HUP web`)
    .action(async (refs: string[], options: { signal: string }, command: Command) => {
      await withStore(command, async store => {
        const { killContainer, signalNumber } = await import('../../manager/containers/stop.js')
        const number = signalNumber(options.signal)
        for (const ref of refs) {
          killContainer(store, ref, number)
          print(ref)
        }
      })
    })
}

function registerWait(parent: Command): void {
  const command = parent.command('wait')
  const words = wordsOf(command)
  onStore(command)
    .description("wait for the end of a container's command, and print its exit code")
    .argument('<container...>')
    .addHelpText('after', `\nExample:\n  ${words} web`)
    .action(async (refs: string[], _options: object, command: Command) => {
      await withStore(command, async (store, signal) => {
        const { waitForContainer } = await import('../../manager/containers/stop.js')
        // All at once: one may be gone with `run --rm` before another ends.
        const codes = refs.map(ref => waitForContainer(store, ref, signal))
        for (const code of await Promise.all(codes)) print(String(code))
      })
    })
}

interface LogsArguments {
  follow?: boolean
  timestamps?: boolean
  tail: string
  since?: string
}

function registerLogs(parent: Command): void {
  const command = parent.command('logs')
  const words = wordsOf(command)
  onStore(command)
    .description("print what a container's command in the background has said")
    .argument('<container>')
    .option('-f, --follow', 'go on until it ends')
    .option('-n, --tail <lines>', 'the last so many lines, or all', 'all')
    .option('--since <time>', 'a date, or how long ago: 10m, 2h')
    .option('-t, --timestamps', 'with the time of each line')
    .addHelpText(
      'after',
      `
The newest 5 to 10 MiB are kept. Standard error goes to standard error.

Examples:
  ${words} -f web
  ${words} --since 10m --tail 100 web`,
    )
    .action(async (ref: string, options: LogsArguments, command: Command) => {
      const tail = tailOf(options.tail)
      const since = options.since === undefined ? undefined : sinceOf(options.since)
      await withStore(command, async (store, signal) => {
        const { join } = await import('node:path')
        const { hasLog, readLog } = await import('../../manager/containers/output-log.js')
        const { busyWith } = await import('../../manager/containers/uses.js')
        const container = store.containers.find(ref)
        const dir = join(store.paths.containers, container.id)
        if (!hasLog(dir))
          throw new CliError(
            `nothing is kept of container ${ref}: only 'lamina run -d' and 'lamina start' keep output`,
          )
        const log = readLog(dir, {
          signal,
          ...(tail === undefined ? {} : { tail }),
          ...(since === undefined ? {} : { since }),
          ...(options.follow === true ? { follow: busyWith(store, container.id) } : {}),
        })
        let starts = true
        for await (const { time, stream, text } of log) {
          if (starts && options.timestamps === true) process[stream].write(`${time} `)
          starts = text.at(-1) === 0x0a
          if (!process[stream].write(text))
            await new Promise<void>(resolve => process[stream].once('drain', () => resolve()))
        }
      })
    })
}

function tailOf(text: string): number | undefined {
  if (text === 'all') return undefined
  if (!/^\d{1,9}$/.test(text)) throw new CliError(`--tail ${text}: write a number of lines, or all`, 2)
  return Number(text)
}

/** Milliseconds since 1970. */
function sinceOf(text: string): number {
  const [, number, unit = ''] = /^(\d{1,9})([smhd])$/.exec(text) ?? []
  const seconds = { s: 1, m: 60, h: 3600, d: 86_400 }[unit]
  if (number !== undefined && seconds !== undefined) return Date.now() - Number(number) * seconds * 1000
  const date = /^\d{9,11}$/.test(text) ? Number(text) * 1000 : Date.parse(text)
  if (Number.isNaN(date)) throw new CliError(`--since ${text}: write a date, or how long ago, e.g. 10m`, 2)
  return date
}
