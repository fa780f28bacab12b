import type { Command } from 'commander'
import type { ContainerRecord } from '../../manager/containers.js'
import type { ContainerState } from '../../manager/containers/state.js'
import type { Store } from '../../manager/store.js'
import {
  containerOptions,
  onContainer,
  onProcess,
  processOptions,
  type ContainerArguments,
  type ProcessArguments,
} from '../container-options.js'
import { append } from '../key-values.js'
import { listFormatOption, printList, printObjects } from '../listing.js'
import { CliError, humanSize, jsonName, print, printable, printJson } from '../output.js'
import { onStore, shortTime, tellNamespace, withStore } from '../store-command.js'
import { registerCommit } from './commit.js'
import { register as registerInside } from './container-inside.js'
import { registerLifecycle } from './lifecycle.js'
import { register as registerRunning } from './run.js'

const FILTERS = 'label=KEY[=VALUE], name=PART, volume=NAME, mounted=true|false, status=created|running|exited'
const FILTER_HELP = `${FILTERS}; may be repeated`

interface ListArguments {
  all?: boolean
  filter?: string[]
  quiet?: boolean
  format: string
}

interface PruneArguments {
  label?: string[]
  filter?: string[]
  dryRun?: boolean
}

/** `lamina container`: root filesystems with a writable layer of their own. */
export function register(program: Command): void {
  const container = program
    .command('container')
    .description('root filesystems with a writable layer of their own')
  registerCreate(container)
  registerMounting(container)
  registerReading(container)
  registerExport(container)
  registerRemoving(container)
  registerInside(container)
  registerLifecycle(container)
  registerRunning(container)
  registerCommit(container)
}

function registerCreate(container: Command): void {
  const create = container.command('create')
  onProcess(onContainer(onStore(create)))
    .description('make a container of an image, and print its ID')
    .argument('[image]', 'an image; without it --layer, or an empty root')
    .argument('[command...]', "what 'container bundle' is to start; the image's own otherwise")
    .passThroughOptions()
    .option('--layer <layer>', 'stand on this stack of layers instead of an image')
    .addHelpText(
      'after',
      `
Examples:
  lamina container create --name web -v data:/var/lib/web --tmpfs /tmp:size=64m debian:12
  lamina container create --mount type=bind,src=/srv/www,dst=/www,readonly debian:12`,
    )
    .action(
      async (
        image: string | undefined,
        words: string[],
        options: ContainerArguments & ProcessArguments & { layer?: string },
        command: Command,
      ) => {
        if (image !== undefined && options.layer !== undefined)
          throw new CliError('an image or --layer, not both', 2)
        await withStore(command, async store => {
          const { createContainer } = await import('../../manager/containers/create.js')
          const chain = options.layer === undefined ? undefined : store.layers.find(options.layer).chainId
          const made = await createContainer(store, {
            ...(await containerOptions(options)),
            image,
            chain,
            process: processOptions(words, options),
          })
          print(made.id)
        })
      },
    )
}

function registerMounting(container: Command): void {
  onStore(container.command('mount'))
    .description(
      'mount the rootfs and all that belongs in it, and print where; without arguments list what is mounted',
    )
    .argument('[container]')
    .addOption(listFormatOption())
    .addHelpText(
      'after',
      '\nExample:\n  root=$(lamina container mount web) && ls $root; lamina container umount web',
    )
    .action(async (ref: string | undefined, options: { format: string }, command: Command) => {
      await withStore(command, async store => {
        if (ref !== undefined) {
          print(await store.containers.mount(ref))
          tellNamespace()
          return
        }
        const mounted = store.containers
          .list()
          .map(one => ({ name: one.name, id: one.id, mountpoint: store.containers.mountpoint(one) }))
          .filter(one => one.mountpoint !== undefined)
        printList(
          mounted,
          [
            { head: 'NAME', cell: one => one.name },
            { head: 'MOUNTPOINT', cell: one => one.mountpoint ?? '' },
          ],
          one => one,
          options.format,
        )
      })
    })

  onStore(container.command('umount'))
    .alias('unmount')
    .description('end one use of the mount; the last one unmounts')
    .argument('<container...>')
    .option('-a, --all', 'also where others have asked for the same mount')
    .option('-f, --force', 'also while processes use it')
    .addHelpText('after', '\nExample:\n  lamina container umount web')
    .action(async (refs: string[], options: { all?: boolean; force?: boolean }, command: Command) => {
      await withStore(command, async store => {
        for (const ref of refs) {
          await store.containers.unmount(ref, { all: options.all === true, force: options.force === true })
        }
      })
    })
}

function registerReading(container: Command): void {
  onStore(container.command('ls'))
    .alias('list')
    .description('list containers that run or are mounted')
    .option('-a, --all', 'all of them')
    .option('-f, --filter <condition>', FILTER_HELP, append)
    .option('-q, --quiet', 'IDs only')
    .addOption(listFormatOption())
    .addHelpText('after', "\nExample:\n  lamina container ls --filter mounted=true --format '{{.name}}'")
    .action(async (options: ListArguments, command: Command) => {
      await withStore(command, async store => {
        const { hasLabel } = await import('../../manager/containers/create.js')
        const { stateOf } = await import('../../manager/containers/state.js')
        const filters = options.filter ?? []
        const tests = filters.map(text => filterOf(store, text, hasLabel, stateOf))
        // Who asks for a state names those that are to be seen.
        const all = options.all === true || filters.some(text => /^(status|mounted)=/.test(text))
        const isUsed = (one: ContainerRecord): boolean =>
          stateOf(store, one).status === 'running' || store.containers.mountpoint(one) !== undefined
        const rows = store.containers
          .list()
          .filter(one => (all || isUsed(one)) && tests.every(test => test(one)))
        if (options.quiet === true) {
          for (const one of rows) print(one.id)
          return
        }
        printList(
          rows,
          [
            { head: 'CONTAINER ID', cell: one => one.id.slice(0, 12) },
            { head: 'IMAGE', cell: one => imageName(store, one) },
            { head: 'CREATED', cell: one => shortTime(one.created) },
            { head: 'STATUS', cell: one => statusText(stateOf(store, one)) },
            { head: 'MOUNTED', cell: one => (store.containers.mountpoint(one) === undefined ? 'no' : 'yes') },
            { head: 'NAME', cell: one => one.name },
          ],
          one => describe(store, one, stateOf(store, one)),
          options.format,
        )
      })
    })

  onStore(container.command('inspect'))
    .description('show all about containers')
    .argument('<container...>')
    .option('-f, --format <format>', "json, or a template: '{{.mountpoint}}'", 'json')
    .addHelpText('after', "\nExample:\n  lamina container inspect --format '{{json .mounts}}' web")
    .action(async (refs: string[], options: { format: string }, command: Command) => {
      await withStore(command, async store => {
        const { stateOf } = await import('../../manager/containers/state.js')
        const containers = refs.map(ref => store.containers.find(ref))
        printObjects(
          containers.map(one => describe(store, one, stateOf(store, one))),
          options.format,
        )
      })
    })

  onStore(container.command('diff'))
    .description('list what the container changed in its image: A added, C changed, D deleted')
    .argument('<container>')
    .option('--format <format>', 'table or json', 'table')
    .addHelpText('after', '\nExample:\n  lamina container diff web')
    .action(async (ref: string, options: { format: string }, command: Command) => {
      await withStore(command, async store => {
        const seen: object[] = []
        for await (const { kind, path } of store.containers.changes(ref)) {
          if (options.format === 'json') seen.push({ kind, ...jsonName('path', `/${path}`) })
          else print(`${kind} ${printable(`/${path}`)}`)
        }
        if (options.format === 'json') printJson(seen)
      })
    })
}

function registerExport(container: Command): void {
  onStore(container.command('export'))
    .description('write the rootfs as one tar, without what is mounted in it')
    .argument('<container>')
    .option('-o, --output <file>', 'where to; standard output otherwise')
    .option('--compression <kind>', 'plain, gzip or zstd', 'plain')
    .addHelpText('after', '\nExample:\n  lamina container export web | tar -t')
    .action(async (ref: string, options: { output?: string; compression: string }, command: Command) => {
      await withStore(command, async (store, signal) => {
        const { exportContainer } = await import('../../manager/image-export.js')
        const { writeOut } = await import('../write-out.js')
        await writeOut(exportContainer(store, ref, signal), options.output, 'a tar', {
          compression: options.compression,
          signal,
        })
      })
    })

  onStore(container.command('rename'))
    .description('give a container another name')
    .argument('<container>')
    .argument('<name>')
    .addHelpText('after', '\nExample:\n  lamina container rename web web-old')
    .action(async (ref: string, name: string, _options: object, command: Command) => {
      await withStore(command, store => store.containers.rename(ref, name))
    })
}

function registerRemoving(container: Command): void {
  onStore(container.command('rm'))
    .alias('remove')
    .description('remove containers with their writable layers')
    .argument('<container...>')
    .option('-v, --volumes', 'their anonymous volumes too')
    .option('-f, --force', 'also while mounted')
    .addHelpText('after', '\nExample:\n  lamina container rm -v web')
    .action(async (refs: string[], options: { volumes?: boolean; force?: boolean }, command: Command) => {
      await withStore(command, async store => {
        const { removeContainer } = await import('../../manager/containers/create.js')
        for (const ref of refs) {
          await removeContainer(store, ref, {
            force: options.force === true,
            volumes: options.volumes === true,
          })
          print(ref)
        }
      })
    })

  onStore(container.command('prune'))
    .description('remove containers that are not mounted; named and anonymous volumes stay')
    .option('-l, --label <label>', 'only those with KEY or KEY=VALUE; may be repeated', append)
    .option('--filter <condition>', FILTER_HELP, append)
    .option('-f, --force', 'as Docker has it; nothing is asked here anyway')
    .option('--dry-run', 'say what would go, and remove nothing')
    .addHelpText('after', '\nExample:\n  lamina container prune --label stage=test --dry-run')
    .action(async (options: PruneArguments, command: Command) => {
      await withStore(command, async store => {
        const { hasLabel, pruneContainers } = await import('../../manager/containers/create.js')
        const { stateOf } = await import('../../manager/containers/state.js')
        const tests = (options.filter ?? []).map(text => filterOf(store, text, hasLabel, stateOf))
        const pruned = await pruneContainers(store, {
          dryRun: options.dryRun === true,
          wanted: one =>
            (options.label ?? []).every(label => hasLabel(one, label)) && tests.every(test => test(one)),
        })
        for (const name of pruned.names) print(name)
        print(`${options.dryRun === true ? 'Would free' : 'Freed'} ${humanSize(pruned.bytes)}`)
      })
    })
}

function filterOf(
  store: Store,
  text: string,
  hasLabel: (container: ContainerRecord, label: string) => boolean,
  stateOf: (store: Store, container: ContainerRecord) => ContainerState,
): (container: ContainerRecord) => boolean {
  const [, kind = '', value = ''] = /^(label|name|volume|mounted|status)=(.+)$/s.exec(text) ?? []
  switch (kind) {
    case 'label':
      return one => hasLabel(one, value)
    case 'name':
      return one => one.name.includes(value)
    case 'volume':
      return one => mountsOf(store, one).some(mount => mount.volume === value)
    case 'status':
      if (!['created', 'running', 'exited'].includes(value)) break
      return one => stateOf(store, one).status === value
    case 'mounted':
      if (value !== 'true' && value !== 'false') break
      return one => (store.containers.mountpoint(one) !== undefined) === (value === 'true')
  }
  throw new CliError(`--filter ${text} is not understood: ${FILTERS}`, 2)
}

function mountsOf(store: Store, container: ContainerRecord): { volume: string; target: string }[] {
  return store.db.all<{ volume: string; target: string }>(
    'SELECT volume, target FROM volume_users WHERE container = ? ORDER BY target',
    container.id,
  )
}

function imageName(store: Store, container: ContainerRecord): string {
  if (container.image === undefined) return '-'
  const tag = store.images.get(container.image)?.tags[0]
  return tag?.replace(/^docker\.io\/(library\/)?/, '') ?? container.image.slice(7, 19)
}

/** As Docker has it. */
function statusText({ status, startedAt, finishedAt, exitCode }: ContainerState): string {
  if (status === 'created') return 'Created'
  if (status === 'running')
    return `Up ${shortTime(startedAt).replace(/ ago$/, '').replace('just now', 'less than a minute')}`
  return `Exited (${exitCode ?? 'unknown'})${finishedAt === undefined ? '' : ` ${shortTime(finishedAt)}`}`
}

const isoTime = (time: number | undefined): string | null =>
  time === undefined ? null : new Date(time).toISOString()

function describe(store: Store, container: ContainerRecord, state: ContainerState): object {
  const users = store.db.get<{ users: number }>('SELECT users FROM mounts WHERE container = ?', container.id)
  const mountpoint = store.containers.mountpoint(container) ?? null
  return {
    id: container.id,
    name: container.name,
    image: container.image ?? null,
    imageName: imageName(store, container),
    driver: container.driver,
    labels: container.labels,
    createdAt: new Date(container.created).toISOString(),
    status: statusText(state),
    state: {
      status: state.status,
      startedAt: isoTime(state.startedAt),
      finishedAt: isoTime(state.finishedAt),
      exitCode: state.exitCode ?? null,
    },
    mountpoint,
    mountUsers: mountpoint === null ? 0 : (users?.users ?? 0),
    volumes: mountsOf(store, container),
    spec: container.spec,
  }
}
