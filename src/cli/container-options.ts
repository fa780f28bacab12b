/** Options that `container create` and `run` share. */
import type { Command } from 'commander'
import type { CreateWithMounts } from '../manager/containers/create.js'
import type { MountSpec } from '../manager/mounts/mount-spec.js'
import { append, keyValues } from './key-values.js'

export interface ContainerArguments {
  name?: string
  label?: string[]
  readOnly?: boolean
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
}

export async function containerOptions(
  options: ContainerArguments,
): Promise<Omit<CreateWithMounts, 'image' | 'chain'>> {
  const { parseMountFlag, parseTmpfsFlag, parseVolumeFlag } = await import('../manager/mounts/mount-spec.js')
  const parsers = { volume: parseVolumeFlag, mount: parseMountFlag, tmpfs: parseTmpfsFlag }
  const mounts = (options.volume ?? []).map(([flag, text]): MountSpec => parsers[flag](text))
  return {
    ...(options.name === undefined ? {} : { name: options.name }),
    labels: keyValues('--label', options.label),
    mounts,
    readOnly: options.readOnly === true,
  }
}
