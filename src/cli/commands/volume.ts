import { Option, type Command } from 'commander'
import type { Store } from '../../manager/store.js'
import type { VolumeRecord } from '../../manager/volumes/volumes.js'
import { append, keyValues } from '../key-values.js'
import { listFormatOption, printList, printObjects } from '../listing.js'
import { humanSize, print } from '../output.js'
import { onStore, shortTime, withStore } from '../store-command.js'
import { register as registerSnapshot } from './volume-snapshot.js'
import { register as registerTransfer } from './volume-transfer.js'

const FILTER_HELP =
  'label=KEY[=VALUE], label!=KEY, name=PART, dangling=true|false, driver=local; may be repeated'

/** `lamina volume`: data that outlives containers. */
export function register(program: Command): void {
  const volume = program.command('volume').description('data that outlives containers')
  registerCreate(volume)
  registerReading(volume)
  registerChanging(volume)
  registerRemoving(volume)
  registerTransfer(volume)
  registerSnapshot(volume)
}

function registerCreate(volume: Command): void {
  onStore(volume.command('create'))
    .description('make a volume and print its name')
    .argument('[name]', 'an anonymous one, named by 64 hex digits, otherwise')
    .option('-l, --label <key=value>', 'a label; may be repeated', append)
    .addOption(new Option('-d, --driver <name>', 'there is one').choices(['local']).default('local'))
    .option(
      '-o, --opt <key=value>',
      'size=1g; or type, o and device as mount(8) takes them; may be repeated',
      append,
    )
    .addHelpText(
      'after',
      `
Examples:
  lamina volume create data
  lamina volume create -o size=10g limited
  lamina volume create --label app=web -o type=none -o o=bind -o device=/srv/www www
  lamina volume create -o type=tmpfs -o device=tmpfs -o o=size=64m,mode=1777 scratch`,
    )
    .action(
      async (name: string | undefined, options: { label?: string[]; opt?: string[] }, command: Command) => {
        const labels = keyValues('--label', options.label)
        const driverOptions = keyValues('--opt', options.opt)
        await withStore(command, async store => {
          const made = await store.volumes.create({
            name,
            anonymous: name === undefined,
            labels,
            options: driverOptions,
          })
          print(made.name)
        })
      },
    )
}

function registerReading(volume: Command): void {
  onStore(volume.command('ls'))
    .alias('list')
    .description('list volumes')
    .option('-f, --filter <condition>', FILTER_HELP, append)
    .option('-q, --quiet', 'names only')
    .addOption(listFormatOption())
    .addHelpText(
      'after',
      "\nExamples:\n  lamina volume ls --filter dangling=true\n  lamina volume ls --format '{{.name}}'",
    )
    .action(async (options: { filter?: string[]; quiet?: boolean; format: string }, command: Command) => {
      await withStore(command, async store => {
        const volumes = store.volumes.list(await filters(options.filter))
        if (options.quiet === true) {
          for (const one of volumes) print(one.name)
          return
        }
        printList(
          volumes,
          [
            { head: 'NAME', cell: one => one.name },
            { head: 'DRIVER', cell: () => 'local' },
            { head: 'CREATED', cell: one => shortTime(one.created) },
            { head: 'USED BY', cell: one => store.volumes.users(one).join(', ') || '-' },
          ],
          one => describe(store, one),
          options.format,
        )
      })
    })

  onStore(volume.command('inspect'))
    .description('show all about volumes')
    .argument('<volume...>')
    .option('-f, --format <format>', "json, or a template: '{{.mountpoint}}'", 'json')
    .addHelpText('after', "\nExample:\n  lamina volume inspect --format '{{.mountpoint}}' data")
    .action(async (refs: string[], options: { format: string }, command: Command) => {
      await withStore(command, store => {
        printObjects(
          refs.map(ref => describe(store, store.volumes.find(ref))),
          options.format,
        )
      })
    })

  onStore(volume.command('df'))
    .description('show what volumes take on disk, and how much of that prune --all would free')
    .addOption(listFormatOption())
    .addHelpText('after', '\nExample:\n  lamina volume df')
    .action(async (options: { format: string }, command: Command) => {
      await withStore(command, store => {
        const rows = store.volumes.list().map(one => ({
          name: one.name,
          anonymous: one.anonymous,
          users: store.volumes.users(one).length,
          ...store.volumes.usage(one),
        }))
        printList(
          rows,
          [
            { head: 'NAME', cell: row => row.name },
            { head: 'USERS', cell: row => row.users },
            { head: 'ENTRIES', cell: row => row.entries ?? '-' },
            { head: 'SIZE', cell: row => humanSize(row.bytes) },
          ],
          row => row,
          options.format,
        )
        if (options.format !== 'table') return
        const sum = (some: typeof rows): string => humanSize(some.reduce((all, row) => all + row.bytes, 0))
        print(`\nTotal ${sum(rows)}, of that unused ${sum(rows.filter(row => row.users === 0))}`)
      })
    })
}

function registerChanging(volume: Command): void {
  onStore(volume.command('update'))
    .description('add and remove labels')
    .argument('<volume>')
    .option('-l, --label <key=value>', 'set a label; may be repeated', append)
    .option('--label-rm <key>', 'take a label away; may be repeated', append)
    .addHelpText('after', '\nExample:\n  lamina volume update --label tier=gold --label-rm draft data')
    .action(async (ref: string, options: { label?: string[]; labelRm?: string[] }, command: Command) => {
      const labels = keyValues('--label', options.label)
      await withStore(command, store => {
        print(store.volumes.update(ref, labels, options.labelRm ?? []).name)
      })
    })

  onStore(volume.command('rename'))
    .description('give a volume another name; containers that have it keep it')
    .argument('<volume>')
    .argument('<name>')
    .addHelpText('after', '\nExample:\n  lamina volume rename data data-2026')
    .action(async (ref: string, name: string, _options: object, command: Command) => {
      await withStore(command, store => store.volumes.rename(ref, name))
    })
}

function registerRemoving(volume: Command): void {
  onStore(volume.command('release'))
    .description("end the use of a volume by clients of 'plugin docker-volumes' that died without saying so")
    .argument('<volume>')
    .addHelpText(
      'after',
      '\nOnly when no container of those clients runs any more.\n\nExample:\n  lamina volume release data',
    )
    .action(async (ref: string, _options: object, command: Command) => {
      await withStore(command, async store => {
        print(`Released from ${await store.volumes.releaseClients(ref)} clients`)
      })
    })

  onStore(volume.command('rm'))
    .alias('remove')
    .description('remove volumes that nothing uses, with their data')
    .argument('<volume...>')
    .option('-f, --force', 'one that does not exist is no error; one in use still is')
    .addHelpText('after', '\nExample:\n  lamina volume rm data')
    .action(async (refs: string[], options: { force?: boolean }, command: Command) => {
      await withStore(command, async store => {
        const { StoreError } = await import('../../manager/store-error.js')
        for (const ref of refs) {
          try {
            await store.volumes.remove(ref)
          } catch (error) {
            if (options.force === true && error instanceof StoreError && error.code === 'not-found') continue
            throw error
          }
          print(ref)
        }
      })
    })

  onStore(volume.command('prune'))
    .description('remove anonymous volumes that nothing uses')
    .option('-a, --all', 'named ones too')
    .option('--filter <condition>', FILTER_HELP, append)
    .option('-f, --force', 'as Docker has it; nothing is asked here anyway')
    .option('--dry-run', 'say what would go, and remove nothing')
    .addHelpText('after', '\nExample:\n  lamina volume prune --all --filter label!=keep --dry-run')
    .action(async (options: { all?: boolean; filter?: string[]; dryRun?: boolean }, command: Command) => {
      await withStore(command, async store => {
        const pruned = await store.volumes.prune({
          all: options.all === true,
          dryRun: options.dryRun === true,
          filters: await filters(options.filter),
        })
        for (const name of pruned.names) print(name)
        print(`${options.dryRun === true ? 'Would free' : 'Freed'} ${humanSize(pruned.bytes)}`)
      })
    })
}

async function filters(words: readonly string[] | undefined) {
  const { parseVolumeFilter } = await import('../../manager/volumes/volume-filter.js')
  return (words ?? []).map(parseVolumeFilter)
}

/** What programs see of a volume; Docker's field names, in this program's capitalisation. */
function describe(store: Store, volume: VolumeRecord): object {
  return {
    name: volume.name,
    driver: 'local',
    mountpoint: volume.mountpoint,
    createdAt: new Date(volume.created).toISOString(),
    labels: volume.labels,
    options: volume.options,
    scope: 'local',
    anonymous: volume.anonymous,
    usedBy: store.volumes.users(volume),
  }
}
