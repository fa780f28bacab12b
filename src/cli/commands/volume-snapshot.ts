import type { Command } from 'commander'
import { listFormatOption, printList } from '../listing.js'
import { print } from '../output.js'
import { ProgressBars } from '../progress.js'
import { onStore, shortTime, withStore } from '../store-command.js'

/** `lamina volume snapshot`: copies of a volume that stand still. */
export function register(volume: Command): void {
  const snapshot = volume.command('snapshot').description('copies of a volume that stand still')

  onStore(snapshot.command('create'))
    .description('take a snapshot; data is shared where the filesystem can (reflink)')
    .argument('<volume>')
    .argument('<name>')
    .option('--live', 'also while a container has it mounted: files may then not fit each other')
    .addHelpText('after', '\nExample:\n  lamina volume snapshot create data monday')
    .action(async (ref: string, name: string, options: { live?: boolean }, command: Command) => {
      await withStore(command, async (store, signal) => {
        const { quietUse } = await import('../../manager/volumes/volume-transfer.js')
        const { takeSnapshot } = await import('../../manager/volumes/snapshots.js')
        using bars = new ProgressBars()
        await using use = await quietUse(store, ref, { live: options.live === true })
        const made = await takeSnapshot(store, use.volume, name, {
          signal,
          onBytes: done => bars.update('snapshot', 'copying', done, undefined),
        })
        print(made.name)
      })
    })

  onStore(snapshot.command('ls'))
    .alias('list')
    .description('list the snapshots of a volume')
    .argument('<volume>')
    .addOption(listFormatOption())
    .addHelpText('after', '\nExample:\n  lamina volume snapshot ls data')
    .action(async (ref: string, options: { format: string }, command: Command) => {
      await withStore(command, async store => {
        const { listSnapshots } = await import('../../manager/volumes/snapshots.js')
        printList(
          listSnapshots(store, store.volumes.find(ref)),
          [
            { head: 'NAME', cell: one => one.name },
            { head: 'CREATED', cell: one => shortTime(one.created) },
            { head: 'ID', cell: one => one.id.slice(0, 12) },
          ],
          ({ name, id, created, tree }) => ({
            name,
            id,
            createdAt: new Date(created).toISOString(),
            path: tree,
          }),
          options.format,
        )
      })
    })

  onStore(snapshot.command('rm'))
    .alias('remove')
    .description('remove snapshots of a volume')
    .argument('<volume>')
    .argument('<name...>')
    .addHelpText('after', '\nExample:\n  lamina volume snapshot rm data monday')
    .action(async (ref: string, names: string[], _options: object, command: Command) => {
      await withStore(command, async store => {
        const { removeSnapshot } = await import('../../manager/volumes/snapshots.js')
        for (const name of names) {
          await removeSnapshot(store, store.volumes.find(ref), name)
          print(name)
        }
      })
    })
}
