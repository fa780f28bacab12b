import { bytesOf, commandLine, workingDirectory } from './argv.js'
import { version } from './version.js'

/**
 * `fuse-lamina`: takes the argv of fuse-overlayfs, so that it can be named wherever that program is started.
 * No commander here: an unknown option must not end it, and starting fast matters.
 */

const USAGE = `usage: fuse-lamina [options] <mountpoint>

    -h   --help            print this help
    -V   --version         print the version
    -f                     stay in the foreground
    -d   --debug           stay in the foreground and print every request (also -o debug)
    -o opt,[opt...]        mount options; may be repeated

    -o lowerdir=A:B:...    lower layers, the top one first (\\: is a colon)
    -o upperdir=U          where changes go; without it the mount is read-only
    -o workdir=W           an empty directory on the filesystem of U
    -o uidmapping=D:S:N    N uids from D on disk are shown from S on; also gidmapping
    -o squash_to_root      show everything as owned by root; also squash_to_uid=N, squash_to_gid=N
    -o xattr_permissions=N keep owner and mode in an xattr (1: security.*, 2: user.*)
    -o timeout=S           seconds for which the kernel may keep names and attributes (default: for ever)
    -o io=MODE             auto, cached or passthrough
    -o lower=MODE          lower layers that change: checked, live or frozen
    -o volatile            never sync; fsync=0 only ignores fsync(2)
    -o redirect_dir=X, metacopy=X, index=X, xino=X, whiteout=X, noxattrs=1, static_nlink, noacl, writeback=1
    -o fsname=X,subtype=Y  source and type in /proc/mounts

Full list: FORMAT.md and "Options" in README.md of the package laminafs.
`

interface Arguments {
  options: string[]
  positional: string[]
  foreground: boolean
  debug: boolean
  ask?: 'help' | 'version'
  unknown: string[]
}

/** As getopt_long with `fdhVso:` would take them, without its abbreviations. */
export function parseArguments(args: readonly string[]): Arguments {
  const parsed: Arguments = { options: [], positional: [], foreground: false, debug: false, unknown: [] }
  for (let i = 0; i < args.length; i++) {
    const arg = args[i] ?? ''
    if (arg === '--') {
      parsed.positional.push(...args.slice(i + 1))
      break
    }
    if (arg === '--help') parsed.ask = 'help'
    else if (arg === '--version') parsed.ask ??= 'version'
    else if (arg === '--debug') parsed.debug = true
    else if (arg.startsWith('--')) parsed.unknown.push(arg)
    else if (arg.startsWith('-') && arg !== '-') i += shortOptions(arg, args[i + 1], parsed)
    else parsed.positional.push(arg)
  }
  return parsed
}

/** `-fo X`, `-oX`: gives 1 when the next argument was taken as a value. */
function shortOptions(arg: string, next: string | undefined, parsed: Arguments): 0 | 1 {
  for (let at = 1; at < arg.length; at++) {
    switch (arg.charAt(at)) {
      case 'f':
        parsed.foreground = true
        break
      case 'd':
        parsed.debug = true
        break
      case 's': // one thread: there is one event loop anyway
        break
      case 'h':
        parsed.ask = 'help'
        break
      case 'V':
        parsed.ask ??= 'version'
        break
      case 'o': {
        const value = arg.slice(at + 1)
        parsed.options.push(value === '' ? (next ?? '') : value)
        return value === '' ? 1 : 0
      }
      default:
        parsed.unknown.push(arg)
        return 0
    }
  }
  return 0
}

export async function main(args: readonly string[] = commandLine()): Promise<number> {
  const parsed = parseArguments(args)
  if (parsed.ask === 'help') {
    process.stdout.write(USAGE)
    return 0
  }
  if (parsed.ask === 'version') {
    process.stdout.write(`fuse-lamina: version ${version()}\nusing FUSE kernel interface version 7.45\n`)
    return 0
  }
  const { DROP_IN_DEFAULTS, launch, mountSpec, parseOptions } = await import('../daemon/client.js')
  try {
    // The last positional argument; mount.fuse3 puts the source before it.
    const mountpoint = parsed.positional.at(-1)
    if (mountpoint === undefined) throw new Error('no mountpoint given; fuse-lamina -h shows the options')
    const options = parseOptions(parsed.options.map(bytesOf))
    for (const option of [...parsed.unknown.map(bytesOf), ...options.unknown]) {
      process.stderr.write(Buffer.from(`unknown argument ignored: ${option}\n`, 'latin1'))
    }
    if (parsed.debug) options.debug = true
    const foreground = parsed.foreground || options.debug
    const spec = mountSpec(options, bytesOf(mountpoint), workingDirectory(), DROP_IN_DEFAULTS)
    const log = process.env['LAMINA_LOG']
    const daemon = await launch(spec, { foreground, ...(log === undefined ? {} : { log }) })
    for (const note of daemon.notes) process.stderr.write(`fuse-lamina: ${note}\n`)
    if (!foreground) return 0
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGUSR1'] as const) {
      process.on(signal, () => daemon.kill(signal))
    }
    return await daemon.ended
  } catch (error) {
    process.stderr.write(`fuse-lamina: ${error instanceof Error ? error.message : String(error)}\n`)
    return 1
  }
}
