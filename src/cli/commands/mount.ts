import { Option, type Command } from 'commander'
import { bytesOf, workingDirectory } from '../argv.js'
import { formatOption } from '../main.js'
import { CliError, jsonName, print, printable, printJson, table, type Format } from '../output.js'

/** `lamina mount`, `umount`, `mounts` and `stats`. */

interface MountArguments {
  options: string[]
  lower: string[]
  upper?: string
  work?: string
  readOnly?: boolean
  io?: string
  name?: string
  foreground?: boolean
  debug?: boolean
  log?: string
  transport?: 'device' | 'fuse-native'
}

const append = (value: string, before: string[]): string[] => [...before, value]

export function register(program: Command): void {
  program
    .command('mount')
    .description('mount a merged view of directories')
    .argument('<mountpoint>', 'the directory where the view appears')
    .addOption(
      new Option('-o, --options <list>', 'options as mount(8) takes them; may be repeated')
        .argParser(append)
        .default([], 'none'),
    )
    .addOption(
      new Option('--lower <dir>', 'a lower layer; repeat for more, the top one first')
        .argParser(append)
        .default([], 'none'),
    )
    .option('--upper <dir>', 'where changes go; without it the view is read-only')
    .option('--work <dir>', 'an empty directory on the same filesystem as --upper')
    .option('--read-only', 'mount read-only, also with an upper layer')
    .addOption(
      new Option('--io <mode>', 'how file contents are read and written').choices([
        'auto',
        'cached',
        'passthrough',
      ]),
    )
    .addOption(
      new Option(
        '--transport <name>',
        'who talks to the kernel: device is the own one; fuse-native the npm package of that name, for comparison',
      ).choices(['device', 'fuse-native']),
    )
    .option('--name <source>', 'what /proc/mounts shows as source')
    .option('-f, --foreground', 'stay, and unmount on Ctrl-C')
    .option('-d, --debug', 'stay, and print every request')
    .option('--log <file>', 'append what the daemon has to say to a file (also: LAMINA_LOG)')
    .addHelpText(
      'after',
      `
Returns when the mount is there. SIGTERM to the daemon, or lamina umount, ends it.

Examples:
  lamina mount --lower /srv/base --upper /srv/up --work /srv/work /mnt/merged
  lamina mount -o lowerdir=/srv/top:/srv/base /mnt/merged
  lamina mount -o lowerdir=/srv/base,upperdir=/srv/up,workdir=/srv/work,volatile /mnt/merged`,
    )
    .action(async (mountpoint: string, options: MountArguments) => {
      process.exitCode = await mountCommand(mountpoint, options)
    })

  program
    .command('umount')
    .alias('unmount')
    .description('unmount, and return when the daemon has ended')
    .argument('<mountpoint...>')
    .option('-l, --lazy', 'detach it now, also while it is in use')
    .option('--force', 'end it, also while it is in use: open files fail from then on')
    .addHelpText('after', '\nExample:\n  lamina umount /mnt/merged')
    .action(async (mountpoints: string[], options: { lazy?: boolean; force?: boolean }) => {
      const { explainUnmount, unmount } = await import('../../daemon/client.js')
      const how = options.force === true ? 'force' : options.lazy === true ? 'lazy' : 'plain'
      for (const mountpoint of mountpoints.map(bytesOf)) {
        try {
          await unmount(mountpoint, how)
        } catch (error) {
          process.stderr.write(`lamina: ${explainUnmount(error, mountpoint).message}\n`)
          process.exitCode = 1
        }
      }
    })

  program
    .command('mounts')
    .alias('list')
    .description('list running mounts: mountpoint, layers, pid, I/O mode')
    .addOption(formatOption())
    .addHelpText('after', '\nExample:\n  lamina mounts --format json')
    .action(async (options: { format: Format }) => {
      const { listMounts } = await import('../../daemon/client.js')
      const mounts = listMounts()
      if (options.format === 'json') {
        printJson(
          mounts.map(
            ({ id: _id, startTime: _startTime, upperId: _u, workId: _w, upperFd: _f, ...mount }) => ({
              ...mount,
              ...jsonName('mountpoint', mount.mountpoint),
              ...jsonName('source', mount.source),
              lower: mount.lower.map(path => jsonName('path', path)),
              dataOnly: mount.dataOnly.map(path => jsonName('path', path)),
              ...(mount.upper === undefined ? {} : jsonName('upper', mount.upper)),
              ...(mount.work === undefined ? {} : jsonName('work', mount.work)),
            }),
          ),
        )
        return
      }
      const rows = mounts.map(mount => {
        const [first, ...more] = [...mount.lower, ...mount.dataOnly]
        return [
          printable(mount.mountpoint),
          mount.upper === undefined ? '-' : printable(mount.upper),
          printable(first ?? '') + (more.length > 0 ? ` (+${more.length})` : ''),
          mount.pid,
          mount.io,
        ]
      })
      print(table(['MOUNTPOINT', 'UPPER', 'LOWER', 'PID', 'I/O'], rows))
    })

  program
    .command('stats')
    .description('show how many requests of each kind a mount has served')
    .argument('<mountpoint>')
    .addOption(formatOption())
    .addHelpText('after', '\nExample:\n  lamina stats /mnt/merged')
    .action(async (mountpoint: string, options: { format: Format }) => {
      const { mountStats } = await import('../../daemon/client.js')
      const stats = await mountStats(bytesOf(mountpoint))
      if (options.format === 'json') return printJson(stats)
      const requests = Object.entries(stats.requests).sort(([, a], [, b]) => b - a)
      print(table(['REQUEST', 'COUNT'], requests))
      print('')
      const {
        requests: _requests,
        dataPlane,
        errors,
        waits,
        ahead,
        io,
        deaths,
        silent,
        lower,
        ...rest
      } = stats
      const named = (prefix: string, counts: Record<string, number>): [string, number][] =>
        Object.entries(counts).map(([name, count]) => [`${prefix}${name}`, count])
      const counters = [
        ...Object.entries(rest),
        ...named('', dataPlane),
        ...named('errors of ', errors),
        ...named('waits of ', waits),
        ...named('names ahead ', ahead),
      ]
      print(table(['COUNTER', 'VALUE'], counters))
      print(`I/O mode: ${io.mode} (${io.why})`)
      const last = deaths?.last === undefined ? '' : `, the last at ${deaths.last.time}: ${deaths.last.cause}`
      if (deaths !== undefined) print(`Daemons that died: ${deaths.count}${last}`)
      const watched = lower.watched === undefined ? '' : `, ${lower.watched} directories watched`
      print(`Lower layers: ${lower.mode} (${lower.noticed} changes noticed${watched})`)
      if (lower.outside !== undefined)
        print(`Not watched: ${lower.outside.directories} directories (${lower.outside.why})`)
      for (const { layers, since } of silent)
        print(`Does not answer since ${new Date(since).toISOString()}: ${layers.join(', ')}`)
    })
}

async function mountCommand(mountpoint: string, args: MountArguments): Promise<number> {
  const { launch, LAMINA_DEFAULTS, MountError, mountSpec, OptionError, parseOptions, refuseUnknown } =
    await import('../../daemon/client.js')
  try {
    const parsed = parseOptions(args.options.map(bytesOf))
    refuseUnknown(parsed)
    if (args.lower.length > 0) {
      if (parsed.lower.length > 0)
        throw new OptionError('give the lower layers by --lower or by -o lowerdir=, not both')
      parsed.lower = args.lower.map(bytesOf)
    }
    if (args.upper !== undefined) parsed.upper = bytesOf(args.upper)
    if (args.work !== undefined) parsed.work = bytesOf(args.work)
    if (args.readOnly === true) parsed.flags.add('ro')
    if (args.io !== undefined) parsed.options.io = args.io as typeof parsed.options.io
    if (args.name !== undefined) parsed.fsname = bytesOf(args.name)
    if (args.debug === true) parsed.debug = true
    const foreground = args.foreground === true || parsed.debug
    const spec = mountSpec(parsed, bytesOf(mountpoint), workingDirectory(), LAMINA_DEFAULTS)
    if (args.transport === 'fuse-native') {
      spec.transport = args.transport
      // What libfuse serves nobody can take over.
      spec.keeper = false
    }
    const log = args.log ?? process.env['LAMINA_LOG']
    const daemon = await launch(spec, { foreground, ...(log === undefined ? {} : { log }) })
    for (const note of daemon.notes) process.stderr.write(`lamina: ${note}\n`)
    if (!foreground) return 0
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGUSR1'] as const) {
      process.on(signal, () => daemon.kill(signal))
    }
    return await daemon.ended
  } catch (error) {
    if (error instanceof OptionError) throw new CliError(error.message, 2)
    if (error instanceof MountError) throw new CliError(error.message)
    throw error
  }
}
