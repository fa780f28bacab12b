/** Options that `container create` and `run` share. */
import type { Command } from 'commander'
import type { ProcessSpec } from '../manager/containers/container-spec.js'
import type { CreateWithMounts } from '../manager/containers/create.js'
import type { IdMaps, IdRange } from '../manager/drivers/driver.js'
import type { MountSpec } from '../manager/mounts/mount-spec.js'
import type { SecurityOptions } from '../manager/security/security-options.js'
import { append, keyValues } from './key-values.js'
import { CliError } from './output.js'

export interface ContainerArguments {
  name?: string
  label?: string[]
  readOnly?: boolean
  storageOpt?: string[]
  uidmap?: string[]
  gidmap?: string[]
  securityOpt?: string[]
  capAdd?: string[]
  capDrop?: string[]
  device?: string[]
  /** Of -v, --mount and --tmpfs, in the order in which they were given. */
  volume?: MountWord[]
}

type MountWord = readonly [flag: 'volume' | 'mount' | 'tmpfs', text: string]

/** One list for the three options: their order is the user's. */
export function onContainer(command: Command): Command {
  const collect = (flag: MountWord[0]) => (text: string) => {
    const before = (command.getOptionValue('volume') as MountWord[] | undefined) ?? []
    const all: MountWord[] = [...before, [flag, text]]
    command.setOptionValue('volume', all)
    return all
  }
  return command
    .option('--name <name>', 'what to call it; a made-up name otherwise')
    .option(
      '-v, --volume <spec>',
      'NAME:/path[:ro,nocopy], /host:/path[:ro,rshared,…] or /path',
      collect('volume'),
    )
    .option(
      '--mount <spec>',
      'type=volume|bind|tmpfs,source=…,target=…[,readonly,volume-subpath=…,bind-propagation=…,tmpfs-size=…]',
      collect('mount'),
    )
    .option('--tmpfs <spec>', '/path[:size=64m,mode=1777,uid=…,gid=…,exec]', collect('tmpfs'))
    .option('--read-only', 'the rootfs cannot be written to; volumes can')
    .option('-l, --label <key=value>', 'a label; may be repeated', append)
    .option('--storage-opt <size=bytes>', 'how much the writable layer may take: size=1g', append)
    .option(
      '--uidmap <container:host:length>',
      'ids of its own, by a user namespace; may be repeated',
      append,
    )
    .option('--gidmap <container:host:length>', 'as --uidmap, which it follows otherwise', append)
    .option(
      '--cap-add <capability>',
      'beyond the usual ones: NET_ADMIN, CAP_NET_ADMIN or ALL; may be repeated',
      append,
    )
    .option('--cap-drop <capability>', 'not even that one, or ALL; may be repeated', append)
    .option(
      '--security-opt <option>',
      'no-new-privileges, seccomp=unconfined or seccomp=PROFILE.json; may be repeated',
      append,
    )
    .option('--device <device>', "a device of the host's: /dev/x[:/dev/y][:rwm]; may be repeated", append)
}

/** @throws StoreError invalid */
async function securityOptions(options: ContainerArguments): Promise<SecurityOptions | undefined> {
  const { capAdd, capDrop, securityOpt = [], device } = options
  if (capAdd === undefined && capDrop === undefined && securityOpt.length === 0 && device === undefined)
    return undefined
  const { parseCapability } = await import('../manager/security/capabilities.js')
  const { parseDevice } = await import('../manager/security/devices.js')
  const { readProfile } = await import('../manager/security/seccomp-profile.js')
  let noNewPrivileges = false
  let seccomp: SecurityOptions['seccomp']
  for (const option of securityOpt) {
    const [, name = '', value] = /^([^:=]*)(?:[:=](.*))?$/s.exec(option) ?? []
    if (name === 'no-new-privileges' && (value === undefined || value === 'true' || value === 'false')) {
      noNewPrivileges = value !== 'false'
    } else if (name === 'seccomp' && value !== undefined && value !== '') {
      seccomp = value === 'unconfined' ? value : value === 'builtin' ? undefined : readProfile(value)
    } else {
      const known = 'no-new-privileges, seccomp=unconfined and seccomp=PROFILE.json are known'
      throw new CliError(`--security-opt ${option}: ${known}`, 2)
    }
  }
  return {
    ...(capAdd === undefined ? {} : { capAdd: capAdd.map(parseCapability) }),
    ...(capDrop === undefined ? {} : { capDrop: capDrop.map(parseCapability) }),
    ...(noNewPrivileges ? { noNewPrivileges } : {}),
    ...(seccomp === undefined ? {} : { seccomp }),
    ...(device === undefined ? {} : { devices: device.map(parseDevice) }),
  }
}

export interface ProcessArguments {
  env?: string[]
  workdir?: string
  user?: string
  network: string
  hostname?: string
  addHost?: string[]
  entrypoint?: string
}

/** What `run` starts, and `container create` keeps for `bundle`. */
export function onProcess(command: Command): Command {
  return command
    .option(
      '-e, --env <name=value>',
      'a variable; NAME alone takes the value from here; may be repeated',
      append,
    )
    .option('-w, --workdir <dir>', 'where it starts; made if missing')
    .option('-u, --user <user>', 'NAME, UID, NAME:GROUP or UID:GID')
    .option('--network <mode>', 'host or none', 'host')
    .option('--hostname <name>', 'the beginning of the ID otherwise')
    .option('--add-host <name:ip>', 'a line of its /etc/hosts; may be repeated', append)
    .option('--entrypoint <program>', "instead of the image's")
}

export function processOptions(
  words: readonly string[],
  options: ProcessArguments,
  terminal = false,
): ProcessSpec {
  const { network } = options
  if (network !== 'host' && network !== 'none')
    throw new CliError(`--network takes host or none, not ${network}`, 2)
  return {
    args: words,
    env: environment(options.env ?? []),
    network,
    terminal,
    ...(options.entrypoint === undefined ? {} : { entrypoint: [options.entrypoint].filter(Boolean) }),
    ...(options.workdir === undefined ? {} : { workdir: options.workdir }),
    ...(options.user === undefined ? {} : { user: options.user }),
    ...(options.hostname === undefined ? {} : { hostname: options.hostname }),
    ...(options.addHost === undefined ? {} : { addHosts: options.addHost }),
  }
}

/** As Docker: NAME alone is this process's value, and nothing where it has none. */
export function environment(words: readonly string[]): string[] {
  return words.flatMap(word => {
    if (word.startsWith('=') || word === '') throw new CliError(`--env ${word}: write NAME=VALUE`, 2)
    if (word.includes('=')) return [word]
    const value = process.env[word]
    return value === undefined ? [] : [`${word}=${value}`]
  })
}

/** `size=1g`. */
function sizeOf(
  words: readonly string[],
  parseSize: (text: string, what: string) => number,
): number | undefined {
  let size: number | undefined
  for (const word of words) {
    const value = /^size=(.+)$/.exec(word)?.[1]
    if (value === undefined)
      throw new CliError(`--storage-opt ${word}: only size=BYTES is known, e.g. size=1g`, 2)
    size = parseSize(value, '--storage-opt size')
  }
  return size
}

/** Docker's word order: first in the container, then on the host. */
function idRanges(flag: string, words: readonly string[]): IdRange[] {
  return words.map(word => {
    const numbers = /^(\d{1,10}):(\d{1,10}):(\d{1,10})$/.exec(word)?.slice(1).map(Number)
    const [container = -1, host = -1, length = 0] = numbers ?? []
    if (length === 0 || container + length > 2 ** 32 - 1 || host + length > 2 ** 32 - 1) {
      throw new CliError(`${flag} ${word}: write CONTAINER:HOST:LENGTH, e.g. 0:100000:65536`, 2)
    }
    return { container, host, length }
  })
}

function idMaps(options: ContainerArguments): IdMaps | undefined {
  const uid = idRanges('--uidmap', options.uidmap ?? [])
  const gid = idRanges('--gidmap', options.gidmap ?? [])
  if (uid.length + gid.length === 0) return undefined
  return { uid: uid.length > 0 ? uid : gid, gid: gid.length > 0 ? gid : uid }
}

export async function containerOptions(
  options: ContainerArguments,
): Promise<Omit<CreateWithMounts, 'image' | 'chain' | 'process'>> {
  const { parseMountFlag, parseTmpfsFlag, parseVolumeFlag } = await import('../manager/mounts/mount-spec.js')
  const parsers = { volume: parseVolumeFlag, mount: parseMountFlag, tmpfs: parseTmpfsFlag }
  const { parseSize } = await import('../manager/mounts/size.js')
  const size = sizeOf(options.storageOpt ?? [], parseSize)
  const ids = idMaps(options)
  const security = await securityOptions(options)
  const mounts = (options.volume ?? []).map(([flag, text]): MountSpec => parsers[flag](text))
  return {
    ...(options.name === undefined ? {} : { name: options.name }),
    labels: keyValues('--label', options.label),
    mounts,
    readOnly: options.readOnly === true,
    ...(size === undefined ? {} : { size }),
    ...(ids === undefined ? {} : { ids }),
    ...(security === undefined ? {} : { security }),
  }
}
