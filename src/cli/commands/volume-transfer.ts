import { createReadStream, statSync } from 'node:fs'
import type { Command } from 'commander'
import { CliError, print } from '../output.js'
import { ProgressBars } from '../progress.js'
import { onStore, withStore } from '../store-command.js'

/** `lamina volume backup, restore, clone`. */
export function register(volume: Command): void {
  onStore(volume.command('backup'))
    .description(
      'write a volume to a tar.zst: owners, modes, times, xattrs, ACLs, hard links, holes, a checksum',
    )
    .argument('<volume>')
    .option('-o, --output <file>', 'where to; standard output otherwise (also: -)')
    .option('--live', 'also while a container has it mounted: files may then not fit each other')
    .addHelpText(
      'after',
      `
Examples:
  lamina volume backup -o data.tar.zst data
  lamina volume backup data | ssh backup 'cat > data.tar.zst'`,
    )
    .action(async (ref: string, options: { output?: string; live?: boolean }, command: Command) => {
      await withStore(command, async (store, signal) => {
        const { backupVolume } = await import('../../manager/volumes/volume-transfer.js')
        const { writeOut } = await import('../write-out.js')
        const total = store.volumes.usage(store.volumes.find(ref)).size
        const bytes = backupVolume(store, ref, { live: options.live === true, signal })
        await writeOut(bytes, options.output, 'a backup', { total, signal })
      })
    })

  onStore(volume.command('restore'))
    .description(
      'make a volume from a backup; it appears when the whole backup is read and its checksum agrees',
    )
    .argument('<file>', 'a backup, or - for standard input')
    .argument('[name]', 'the name that the volume had otherwise')
    .addHelpText('after', '\nExample:\n  lamina volume restore data.tar.zst data-copy')
    .action(async (file: string, name: string | undefined, _options: object, command: Command) => {
      if (file !== '-' && statSync(file, { throwIfNoEntry: false })?.isFile() !== true) {
        throw new CliError(`no such file: ${file}`)
      }
      await withStore(command, async (store, signal) => {
        const { restoreVolume } = await import('../../manager/volumes/volume-transfer.js')
        using bars = new ProgressBars()
        const source = file === '-' ? process.stdin : createReadStream(file)
        const made = await restoreVolume(store, source, name, {
          signal,
          what: file === '-' ? 'the backup' : file,
          onBytes: done => bars.update('restore', 'restoring', done, undefined),
        })
        print(made.name)
      })
    })

  onStore(volume.command('clone'))
    .description(
      'make a second volume with the same content; data is shared where the filesystem can (reflink)',
    )
    .argument('<volume>')
    .argument('<name>')
    .option('--live', 'also while a container has it mounted: files may then not fit each other')
    .addHelpText('after', '\nExample:\n  lamina volume clone data data-test')
    .action(async (ref: string, name: string, options: { live?: boolean }, command: Command) => {
      await withStore(command, async (store, signal) => {
        const { cloneVolume } = await import('../../manager/volumes/volume-transfer.js')
        using bars = new ProgressBars()
        const total = store.volumes.usage(store.volumes.find(ref)).size
        const made = await cloneVolume(store, ref, name, {
          signal,
          live: options.live === true,
          onBytes: done => bars.update('clone', 'copying', done, total),
        })
        print(made.name)
      })
    })
}
