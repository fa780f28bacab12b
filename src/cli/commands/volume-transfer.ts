import { createReadStream, statSync } from 'node:fs'
import type { Command } from 'commander'
import { append } from '../key-values.js'
import { CliError, print } from '../output.js'
import { ProgressBars } from '../progress.js'
import { onStore, withStore } from '../store-command.js'

interface BackupArguments {
  output?: string
  to?: string
  live?: boolean
  freeze?: boolean
  snapshot?: string
  since?: string
}

/** `lamina volume backup, restore, clone`. */
export function register(volume: Command): void {
  onStore(volume.command('backup'))
    .description(
      'write a volume to a tar.zst: owners, modes, times, xattrs, ACLs, hard links, holes, a checksum',
    )
    .argument('<volume>')
    .option('-o, --output <file>', 'where to; standard output otherwise (also: -)')
    .option('--to <place>', 'hand it to a program: restic:REPOSITORY or rclone:REMOTE:PATH')
    .option('--live', 'also while a container has it mounted: files may then not fit each other')
    .option('--freeze', 'stop all writing to the filesystem that the volume is (fsfreeze) meanwhile')
    .option('--snapshot <name>', 'take a snapshot of this name first, and back up that')
    .option('--since <snapshot>', 'only what changed since this snapshot, to be restored over its backup')
    .addHelpText(
      'after',
      `
Examples:
  lamina volume backup -o data.tar.zst data
  lamina volume backup data | ssh backup 'cat > data.tar.zst'
  lamina volume backup --snapshot mon -o mon.tar.zst data
  lamina volume backup --since mon --snapshot tue -o tue.tar.zst data
  lamina volume backup --to restic:/srv/restic data`,
    )
    .action(async (ref: string, options: BackupArguments, command: Command) => {
      const { output, to } = options
      if (output !== undefined && to !== undefined) throw new CliError('--output or --to, not both', 2)
      await withStore(command, async (store, signal) => {
        const { backupVolume } = await import('../../manager/volumes/volume-transfer.js')
        const { parseDestination } = await import('../../manager/volumes/send-to.js')
        const { writeOut } = await import('../write-out.js')
        const volume = store.volumes.find(ref)
        const destination = to === undefined ? undefined : parseDestination(to)
        const bytes = backupVolume(store, ref, {
          live: options.live === true,
          freeze: options.freeze === true,
          since: options.since,
          snapshot: options.snapshot,
          plain: destination?.packs === true,
          signal,
        })
        if (destination !== undefined) await destination.send(bytes, volume.name, signal)
        else await writeOut(bytes, output, 'a backup', { total: store.volumes.usage(volume).size, signal })
      })
    })

  onStore(volume.command('restore'))
    .description(
      'make a volume from a backup; it appears when the whole backup is read and its checksum agrees',
    )
    .argument('<file>', 'a backup, or - for standard input')
    .argument('[name]', 'the name that the volume had otherwise')
    .option(
      '--then <file>',
      'a backup of what changed since (--since); may be repeated, in their order',
      append,
    )
    .option('--size <bytes>', 'a limit for the new volume')
    .addHelpText(
      'after',
      `
Examples:
  lamina volume restore data.tar.zst data-copy
  lamina volume restore mon.tar.zst data-tue --then tue.tar.zst
  restic -r /srv/restic dump latest data.tar | lamina volume restore -`,
    )
    .action(
      async (
        file: string,
        name: string | undefined,
        options: { then?: string[]; size?: string },
        command: Command,
      ) => {
        for (const each of [file, ...(options.then ?? [])]) {
          if (each !== '-' && statSync(each, { throwIfNoEntry: false })?.isFile() !== true) {
            throw new CliError(`no such file: ${each}`)
          }
        }
        await withStore(command, async (store, signal) => {
          const { restoreVolume } = await import('../../manager/volumes/volume-restore.js')
          using bars = new ProgressBars()
          const open = (each: string) => (each === '-' ? process.stdin : createReadStream(each))
          const made = await restoreVolume(store, open(file), name, {
            signal,
            what: file === '-' ? 'the backup' : file,
            then: (options.then ?? []).map(what => ({ what, open: () => open(what) })),
            size: options.size,
            onBytes: done => bars.update('restore', 'restoring', done, undefined),
          })
          print(made.name)
        })
      },
    )

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
