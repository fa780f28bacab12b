import type { Command } from 'commander'
import type { StoreInfo } from '../../manager/info.js'
import { humanSize, print, printJson, table } from '../output.js'
import { ProgressBars } from '../progress.js'
import { printObjects } from '../listing.js'
import { onStore, withStore } from '../store-command.js'
import { choice } from './image-transfer.js'

/** `lamina system` and `lamina info`: the store as a whole. */

export function register(program: Command): void {
  const system = program.command('system').description('the store as a whole: usage, check, prune')

  onStore(system.command('df'))
    .description('show what takes how much, and what could be freed')
    .option('-v, --verbose', 'also by image, container and volume')
    .option('--format <format>', 'table or json', 'table')
    .addHelpText('after', '\nExample:\n  lamina system df -v')
    .action(async (options: { verbose?: boolean; format: string }, command: Command) => {
      const format = choice('--format', options.format, ['table', 'json'])
      await withStore(command, async store => {
        const { diskUsage } = await import('../../manager/disk-usage.js')
        const usage = await diskUsage(store, store.containers, store.volumes)
        if (format === 'json') {
          printJson(usage)
          return
        }
        const line = (type: string, part: (typeof usage)['images']): (string | number)[] => {
          const percent = part.size > 0 ? ` (${Math.round((100 * part.reclaimable) / part.size)}%)` : ''
          return [type, part.count, part.active, humanSize(part.size), humanSize(part.reclaimable) + percent]
        }
        print(
          table(
            ['TYPE', 'TOTAL', 'ACTIVE', 'SIZE', 'RECLAIMABLE'],
            [
              line('Images', usage.images),
              line('Layers', usage.layers),
              line('Containers', usage.containers),
              line('Volumes', usage.volumes),
              line('Build cache', usage.buildCache),
            ],
          ),
        )
        if (options.verbose !== true) return
        const { displayName } = await import('../../manager/images.js')
        const names = new Map(
          store.images.list().map(image => [image.id, image.tags.map(displayName).join(', ')]),
        )
        print('\nImages:')
        print(
          table(
            ['IMAGE ID', 'NAMES', 'SIZE', 'SHARED', 'UNIQUE', 'CONTAINERS'],
            usage.perImage.map(image => [
              image.id.slice(7, 19),
              names.get(image.id) ?? '',
              humanSize(image.size),
              humanSize(image.shared),
              humanSize(image.unique),
              image.containers,
            ]),
          ),
        )
        if (usage.perContainer.length > 0) {
          const rows = usage.perContainer.map(one => [
            one.id.slice(0, 12),
            one.name,
            one.driver,
            humanSize(one.size),
          ])
          print('\nContainers:')
          print(table(['CONTAINER ID', 'NAME', 'DRIVER', 'SIZE'], rows))
        }
        if (usage.perVolume.length === 0) return
        print('\nVolumes:')
        print(
          table(
            ['NAME', 'USERS', 'SIZE'],
            usage.perVolume.map(one => [one.name, one.users, humanSize(one.size)]),
          ),
        )
      })
    })

  onStore(system.command('info'))
    .description('show the store, its driver, and why the other drivers do not run')
    .option('--format <format>', "table, json or a template: '{{.driver}}'", 'table')
    .addHelpText('after', "\nExample:\n  lamina system info --format '{{.driver}}'")
    .action((options: { format: string }, command: Command) => showInfo(options.format, command))

  onStore(system.command('check'))
    .description('look for orphaned directories, missing or altered layers, dangling rows, dead mounts')
    .option('--repair', 'mend what can be mended')
    .option('--content', 'read every file and compare it with its digest')
    .option('--format <format>', 'table or json', 'table')
    .addHelpText(
      'after',
      `
Exit code 0: nothing is wrong (or all was repaired); 1: something is.

Examples:
  lamina system check
  lamina system check --content --repair`,
    )
    .action(async (options: { repair?: boolean; content?: boolean; format: string }, command: Command) => {
      const format = choice('--format', options.format, ['table', 'json'])
      const problems = await withStore(command, async (store, signal) => {
        const { checkStore } = await import('../../manager/check.js')
        using bars = new ProgressBars()
        return await checkStore(store, {
          repair: options.repair === true,
          content: options.content === true,
          signal,
          onLayer: (done, total) =>
            bars.update('check', 'checking', done, total, `layer ${done + 1} of ${total}`),
        })
      })
      if (format === 'json') printJson(problems)
      else if (problems.length === 0) print('Nothing is wrong.')
      else {
        print(
          table(
            ['WHAT', 'NAME', 'PROBLEM', 'REMEDY'],
            problems.map(one => [
              one.kind,
              one.name,
              one.problem,
              one.repaired ? `done: ${one.remedy}` : one.remedy,
            ]),
          ),
        )
        if (options.repair !== true) print("\nRun 'lamina system check --repair' to mend what can be mended.")
      }
      process.exitCode = problems.some(one => !one.repaired) ? 1 : 0
    })

  onStore(system.command('prune'))
    .description('remove what nothing uses: images without a name, build cache, layers, begun downloads')
    .option('-a, --all', 'also images that have a name and that no container uses')
    .option('--blobs', 'also the compressed blobs that --keep-blobs has kept')
    .option('--dry-run', 'say what would go, and remove nothing')
    .option('--format <format>', 'table or json', 'table')
    .addHelpText('after', '\nExample:\n  lamina system prune --all --dry-run')
    .action(
      async (
        options: { all?: boolean; blobs?: boolean; dryRun?: boolean; format: string },
        command: Command,
      ) => {
        const format = choice('--format', options.format, ['table', 'json'])
        await withStore(command, async store => {
          const { pruneSystem } = await import('../../manager/system-prune.js')
          const { displayName } = await import('../../manager/images.js')
          const pruned = await pruneSystem(store, {
            all: options.all === true,
            blobs: options.blobs === true,
            dryRun: options.dryRun === true,
          })
          if (format === 'json') {
            printJson(pruned)
            return
          }
          for (const name of pruned.untagged) print(`Untagged: ${displayName(name)}`)
          for (const id of pruned.images) print(`Deleted: ${id}`)
          if (pruned.layers.length > 0) print(`Layers: ${pruned.layers.length}`)
          if (pruned.buildSteps > 0) print(`Build steps: ${pruned.buildSteps}`)
          if (pruned.downloads > 0) print(`Begun downloads: ${pruned.downloads}`)
          if (pruned.blobs > 0) print(`Kept blobs: ${pruned.blobs}`)
          print(`${options.dryRun === true ? 'Would free' : 'Freed'} ${humanSize(pruned.bytes)}`)
        })
      },
    )

  onStore(program.command('info'))
    .description('show the store, its driver, and why the other drivers do not run')
    .option('--format <format>', "table, json or a template: '{{.driver}}'", 'table')
    .addHelpText('after', '\nExample:\n  lamina info')
    .action((options: { format: string }, command: Command) => showInfo(options.format, command))
}

async function showInfo(format: string, command: Command): Promise<void> {
  await withStore(command, async store => {
    const { storeInfo } = await import('../../manager/info.js')
    const info = await storeInfo(store)
    if (format === 'json') printJson(info)
    else if (format === 'table') print(infoText(info))
    else printObjects([info], format)
  })
}

function rootlessText({ ids, ownership }: StoreInfo): string {
  if (ids === undefined) return 'no'
  const count = ids.uid.reduce((sum, { length }) => sum + length, 0)
  const kept = ownership === 'xattr' ? ', owners of files kept in an attribute' : ''
  return `yes, with ${count === 1 ? 'one id' : `${count} ids`}${kept}`
}

function infoText(info: StoreInfo): string {
  const lines: [string, string][] = [
    ['Root', info.root],
    ['Filesystem', `${info.filesystem}, ${humanSize(info.free)} free`],
    ['Storage driver', info.driver ?? `none: ${info.driverProblem ?? ''}`],
    ...info.drivers.map((driver): [string, string] => [
      `  ${driver.name}`,
      `${driver.chosen ? 'runs: ' : driver.available ? 'could run: ' : 'cannot run: '}${driver.reason}`,
    ]),
    // Other tools have them under these names; more are in the JSON.
    ...['aufs', 'zfs', 'devicemapper'].map((name): [string, string] => [
      `  ${name}`,
      `no driver here: ${info.otherDrivers[name] ?? ''}`,
    ]),
    ['Runtime', info.runtime ?? 'none (install crun or runc); a private namespace is used instead'],
    ['Images', String(info.images)],
    ['Layers', String(info.layers)],
    ['Containers', String(info.containers)],
    ['Volumes', String(info.volumes)],
    ['Mounts', String(info.mounts)],
    ['Rootless', rootlessText(info)],
    ['Kernel', info.kernel],
    ['Node.js', info.node],
  ]
  const width = Math.max(...lines.map(([name]) => name.length))
  return lines.map(([name, value]) => `${name.padEnd(width)}  ${value}`).join('\n')
}
