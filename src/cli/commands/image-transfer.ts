import { statSync } from 'node:fs'
import { Option, type Command } from 'commander'
import { CliError, print } from '../output.js'
import { ProgressBars } from '../progress.js'
import { onStore, withStore } from '../store-command.js'
import { inputOf, openInput } from './image-input.js'

/** `lamina image load, save, import, export`: images as files. */

const append = (value: string, before: string[] | undefined): string[] => [...(before ?? []), value]

interface LoadArguments {
  input?: string
  platform?: string
  name?: string
  quiet?: boolean
  keepBlobs?: boolean
}

interface ImportArguments {
  change?: string[]
  message?: string
  platform?: string
  author?: string
}

export function register(image: Command): void {
  onStore(image.command('load'))
    .description('read images from an archive: docker-archive or OCI layout, as directory, tar or stream')
    .argument('[archive]', 'a file or directory; standard input otherwise')
    .option('-i, --input <archive>', 'the same')
    .option('--platform <os/arch>', 'which image of a multi-platform index', undefined)
    .option('--name <reference>', 'a name for an image that has none in the archive')
    .addOption(keepBlobsOption())
    .option('-q, --quiet', 'no progress')
    .addHelpText(
      'after',
      '\nExamples:\n  lamina image load debian.tar\n  podman save debian | lamina image load',
    )
    .action(async (archive: string | undefined, options: LoadArguments, command: Command) => {
      const from = inputOf(archive ?? options.input, 'archive')
      await withStore(command, async (store, signal) => {
        const { loadImages } = await import('../../manager/image-install.js')
        const { loadedName } = await import('../../manager/image-save.js')
        const { parsePlatform } = await import('../../oci/platform.js')
        using bars = new ProgressBars()
        const loaded = await loadImages(store, from.path ?? openInput(from), {
          signal,
          ...(options.platform === undefined ? {} : { platform: parsePlatform(options.platform) }),
          ...(options.name === undefined ? {} : { name: options.name }),
          ...(options.keepBlobs === undefined ? {} : { keepBlobs: options.keepBlobs }),
          ...(options.quiet === true
            ? {}
            : {
                onProgress: event =>
                  bars.update(event.id, event.label, event.done, event.total, event.status),
              }),
        })
        for (const one of loaded) print(`Loaded image: ${loadedName(one)}`)
      })
    })

  onStore(image.command('save'))
    .description('write images to an archive')
    .argument('<image...>')
    .option('-o, --output <file>', 'where to (a directory for oci-dir); standard output otherwise')
    .option('--format <kind>', 'docker-archive, oci-archive or oci-dir', 'docker-archive')
    .option(
      '--compression <kind>',
      'of layers in OCI forms: plain, gzip or zstd (default: as they were kept, else plain)',
    )
    .addHelpText(
      'after',
      '\nExamples:\n  lamina image save -o debian.tar debian:12\n  lamina image save --format oci-archive app | podman load',
    )
    .action(
      async (
        refs: string[],
        options: { output?: string; format: string; compression?: string },
        command: Command,
      ) => {
        const format = choice('--format', options.format, ['docker-archive', 'oci-archive', 'oci-dir'])
        const asked = options.compression
        const packed =
          asked === undefined
            ? {}
            : { compression: choice('--compression', asked, ['plain', 'gzip', 'zstd']) }
        await withStore(command, async (store, signal) => {
          const { saveImages, saveToDirectory } = await import('../../manager/image-save.js')
          if (format === 'oci-dir') {
            if (options.output === undefined) throw new CliError('oci-dir needs a directory: -o DIR', 2)
            await saveToDirectory(store, refs, options.output, { ...packed, signal })
            return
          }
          const { writeOut } = await import('../write-out.js')
          const total = refs.reduce((sum, ref) => sum + store.images.find(ref).size, 0)
          await writeOut(
            saveImages(store, refs, { format, ...packed, signal }),
            options.output,
            'an archive',
            { total, signal },
          )
        })
      },
    )

  onStore(image.command('import'))
    .description('make an image of one plain root filesystem')
    .argument('<file>', 'a tar (plain, gzip, zstd), a directory, or - for standard input')
    .argument('[name]', 'the name of the image')
    .option(
      '-c, --change <instruction>',
      "change its config: 'CMD [\"sh\"]', 'ENV A=b'; may be repeated",
      append,
    )
    .option('-m, --message <text>', 'a comment in its history')
    .option('--author <who>', 'who made it, in the history')
    .option('--platform <os/arch>', 'what it runs on; this host otherwise')
    .addHelpText('after', '\nExample:\n  lamina image import -c \'CMD ["bash"]\' rootfs.tar.zst debian:12')
    .action(async (file: string, name: string | undefined, options: ImportArguments, command: Command) => {
      const isDir = file !== '-' && statSync(file, { throwIfNoEntry: false })?.isDirectory() === true
      const from = inputOf(file, 'root filesystem')
      await withStore(command, async (store, signal) => {
        const { importRootfs } = await import('../../manager/image-create.js')
        const { packTree } = await import('../../manager/layer-tar.js')
        const { parsePlatform } = await import('../../oci/platform.js')
        using bars = new ProgressBars()
        const made = await importRootfs(
          store,
          isDir ? packTree(file, store.ownership, signal) : openInput(from),
          {
            signal,
            onBytes: done => bars.update('import', 'importing', done, from.total),
            ...(name === undefined ? {} : { name }),
            ...(options.change === undefined ? {} : { changes: options.change }),
            ...(options.message === undefined ? {} : { comment: options.message }),
            ...(options.author === undefined ? {} : { author: options.author }),
            ...(options.platform === undefined ? {} : { platform: parsePlatform(options.platform) }),
          },
        )
        print(made.id)
      })
    })

  onStore(image.command('export'))
    .description('write the merged tree of an image as one tar')
    .argument('<image>')
    .option('-o, --output <file>', 'where to; standard output otherwise')
    .option('--compression <kind>', 'plain, gzip or zstd', 'plain')
    .addHelpText('after', '\nExample:\n  lamina image export debian:12 | tar -tv')
    .action(async (ref: string, options: { output?: string; compression: string }, command: Command) => {
      await withStore(command, async (store, signal) => {
        const { exportImage } = await import('../../manager/image-export.js')
        const { writeOut } = await import('../write-out.js')
        await writeOut(exportImage(store, ref, signal), options.output, 'a tar', {
          compression: options.compression,
          signal,
        })
      })
    })
}

/** Of `load` and `pull`. */
export function keepBlobsOption(): Option {
  return new Option(
    '--keep-blobs',
    'keep compressed layers as they came, too, so that the image leaves with the same digests',
  )
}

export function choice<T extends string>(option: string, value: string, known: readonly T[]): T {
  const found = known.find(each => each === value)
  if (found === undefined) throw new CliError(`${option} takes ${known.join(', ')}, not ${value}`, 2)
  return found
}
