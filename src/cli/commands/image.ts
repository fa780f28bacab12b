import type { Command } from 'commander'
import type { ImageRecord } from '../../manager/images.js'
import { humanSize, jsonName, print, printable, printJson } from '../output.js'
import { listFormatOption, printList, printObjects } from '../listing.js'
import { onStore, shortTime, tellNamespace, withStore } from '../store-command.js'
import { define as defineBuild } from './build.js'
import { registerPullPush } from './registry.js'
import { register as registerTransfer } from './image-transfer.js'

/** `lamina image`: what can be done with images that are in the store; moving them is in image-transfer.ts. */

export function register(program: Command): void {
  const image = program.command('image').description('images: ordered layers and a config')

  registerTransfer(image)
  registerPullPush(image)
  defineBuild(image.command('build'))
  registerReading(image)
  registerNaming(image)
  registerMounting(image)
}

function registerReading(image: Command): void {
  onStore(image.command('ls'))
    .alias('list')
    .description('list the images')
    .argument('[name]', 'only images of this repository')
    .option('-q, --quiet', 'print IDs only')
    .option('--digests', 'show the digests by which registries know them')
    .addOption(listFormatOption())
    .addHelpText('after', "\nExamples:\n  lamina image ls\n  lamina image ls --format '{{.name}} {{.size}}'")
    .action(
      async (
        name: string | undefined,
        options: { quiet?: boolean; digests?: boolean; format: string },
        command: Command,
      ) => {
        await withStore(command, async store => {
          const { displayName } = await import('../../manager/images.js')
          const { shortDigest } = await import('../../manager/layers.js')
          const rows = imageRows(store.images.list(), displayName).filter(
            row => name === undefined || row.repository === name || row.name === name,
          )
          if (options.quiet === true) {
            for (const id of new Set(rows.map(row => row.id))) print(shortDigest(id))
            return
          }
          printList(
            rows,
            [
              { head: 'REPOSITORY', cell: row => row.repository },
              { head: 'TAG', cell: row => row.tag },
              ...(options.digests === true
                ? [{ head: 'DIGEST', cell: (row: ImageRow) => row.digest ?? '<none>' }]
                : []),
              { head: 'IMAGE ID', cell: row => shortDigest(row.id) },
              { head: 'CREATED', cell: row => shortTime(row.createdAt) },
              { head: 'SIZE', cell: row => humanSize(row.size) },
            ],
            row => row,
            options.format,
          )
        })
      },
    )

  onStore(image.command('inspect'))
    .description('show all about images')
    .argument('<image...>')
    .option('--format <template>', "a template instead of JSON: '{{.id}}', '{{json .config.Env}}'")
    .addHelpText('after', '\nExample:\n  lamina image inspect debian:12')
    .action(async (refs: string[], options: { format?: string }, command: Command) => {
      await withStore(command, async store => {
        const { inspectImage } = await import('../../manager/image-inspect.js')
        printObjects(
          refs.map(ref => inspectImage(store, ref)),
          options.format,
        )
      })
    })

  onStore(image.command('history'))
    .description('show the steps that made an image, the newest first')
    .argument('<image>')
    .option('--no-trunc', 'show the steps in full')
    .addOption(listFormatOption())
    .addHelpText('after', '\nExample:\n  lamina image history debian:12')
    .action(async (ref: string, options: { trunc: boolean; format: string }, command: Command) => {
      await withStore(command, async store => {
        const { shortDigest } = await import('../../manager/layers.js')
        const cut = (text: string): string => {
          const line = printable(Buffer.from(text.replace(/\s+/g, ' ')).toString('latin1'))
          return options.trunc && line.length > 60 ? `${line.slice(0, 59)}…` : line
        }
        printList(
          store.images.history(ref),
          [
            { head: 'LAYER', cell: step => (step.diffId === undefined ? '-' : shortDigest(step.diffId)) },
            {
              head: 'CREATED',
              cell: step => shortTime(step.created === undefined ? undefined : Date.parse(step.created)),
            },
            { head: 'CREATED BY', cell: step => cut(step.createdBy) },
            { head: 'SIZE', cell: step => humanSize(step.size) },
            { head: 'COMMENT', cell: step => cut(step.comment) },
          ],
          step => ({
            created: step.created ?? null,
            createdBy: step.createdBy,
            size: step.size,
            diffId: step.diffId ?? null,
            comment: step.comment,
          }),
          options.format,
        )
      })
    })

  onStore(image.command('diff'))
    .description('list what turns the tree of one image into that of another')
    .argument('<before>')
    .argument('<after>')
    .option('--format <format>', 'table or json', 'table')
    .addHelpText('after', '\nExample:\n  lamina image diff app:1 app:2')
    .action(async (before: string, after: string, options: { format: string }, command: Command) => {
      await withStore(command, store => {
        const changes = store.images.diff(before, after)
        if (options.format === 'json') {
          printJson([...changes].map(({ kind, path }) => ({ kind, ...jsonName('path', `/${path}`) })))
          return
        }
        for (const { kind, path } of changes) print(`${kind} ${printable(`/${path}`)}`)
      })
    })

  onStore(image.command('explore'))
    .description('show where the bytes of an image are, and which are wasted')
    .argument('<image>')
    .option('--html <file>', 'write one self-contained page with a treemap')
    .option('--format <format>', 'table or json', 'table')
    .option('--top <n>', 'how many wasted paths to list', '20')
    .addHelpText(
      'after',
      '\nExamples:\n  lamina image explore app:latest\n  lamina image explore --html app.html app:latest',
    )
    .action(
      async (ref: string, options: { html?: string; format: string; top: string }, command: Command) => {
        await withStore(command, async store => {
          const { exploreCommand } = await import('../explore-output.js')
          await exploreCommand(store, ref, options)
        })
      },
    )
}

function registerNaming(image: Command): void {
  onStore(image.command('tag'))
    .description('give an image one more name')
    .argument('<image>')
    .argument('<name...>')
    .addHelpText('after', '\nExample:\n  lamina image tag 3f2a91c07d11 registry.example.com/app:1.2')
    .action(async (ref: string, names: string[], _options: object, command: Command) => {
      await withStore(command, store => {
        for (const name of names) store.images.tag(ref, name)
      })
    })

  onStore(image.command('rm'))
    .alias('remove')
    .description('take names away, and images with their last name')
    .argument('<image...>')
    .option('-f, --force', 'by ID: also where it has several names')
    .addHelpText('after', '\nExample:\n  lamina image rm app:1.1 app:1.0')
    .action(async (refs: string[], options: { force?: boolean }, command: Command) => {
      await withStore(command, async store => {
        const { displayName } = await import('../../manager/images.js')
        for (const ref of refs) {
          const removed = await store.images.remove(ref, { force: options.force === true })
          for (const name of removed.untagged) print(`Untagged: ${displayName(name)}`)
          for (const id of removed.images) print(`Deleted: ${id}`)
          for (const id of removed.layers) print(`Deleted layer: ${id}`)
        }
      })
    })

  onStore(image.command('prune'))
    .description('remove images without a name, or with --all every image that no container uses')
    .option('-a, --all', 'also images that have a name')
    .option('--dry-run', 'say what would go, and remove nothing')
    .addHelpText('after', '\nExample:\n  lamina image prune --all --dry-run')
    .action(async (options: { all?: boolean; dryRun?: boolean }, command: Command) => {
      await withStore(command, async store => {
        const { displayName } = await import('../../manager/images.js')
        const removed = await store.images.prune({
          all: options.all === true,
          dryRun: options.dryRun === true,
        })
        for (const name of removed.untagged) print(`Untagged: ${displayName(name)}`)
        for (const id of removed.images) print(`Deleted: ${id}`)
        const verb = options.dryRun === true ? 'Would free' : 'Freed'
        print(`${verb} ${humanSize(removed.bytes)}`)
      })
    })
}

function registerMounting(image: Command): void {
  onStore(image.command('mount'))
    .description(
      'show the tree of an image, read-only, and print where; without arguments list what is mounted',
    )
    .argument('[image]')
    .argument('[directory]', 'where; a place in the store otherwise')
    .addOption(listFormatOption())
    .addHelpText('after', '\nExamples:\n  lamina image mount debian:12\n  lamina image mount debian:12 /mnt')
    .action(
      async (
        ref: string | undefined,
        at: string | undefined,
        options: { format: string },
        command: Command,
      ) => {
        await withStore(command, async store => {
          if (ref !== undefined) {
            print(await store.imageMounts.mount(ref, at))
            tellNamespace()
            return
          }
          printList(
            store.imageMounts.list(),
            [
              { head: 'MOUNTPOINT', cell: mount => mount.target },
              { head: 'LAYER', cell: mount => mount.chainId?.slice(7, 19) ?? '-' },
              { head: 'DRIVER', cell: mount => mount.driver },
              { head: 'USERS', cell: mount => mount.users },
            ],
            mount => mount,
            options.format,
          )
        })
      },
    )

  onStore(image.command('umount'))
    .alias('unmount')
    .description('end the mount of an image')
    .argument('<image-or-directory...>')
    .option('-a, --all', 'also where others have asked for the same mount')
    .option('-f, --force', 'also while processes use it')
    .addHelpText('after', '\nExample:\n  lamina image umount debian:12')
    .action(async (refs: string[], options: { all?: boolean; force?: boolean }, command: Command) => {
      await withStore(command, async store => {
        for (const ref of refs) {
          await store.imageMounts.unmount(ref, { all: options.all === true, force: options.force === true })
        }
      })
    })
}

interface ImageRow {
  readonly id: string
  readonly name: string
  readonly repository: string
  readonly tag: string
  readonly digest: string | null
  readonly size: number
  readonly platform: string
  readonly created: string | null
  readonly createdAt: number
}

/** One row a name, as users know it. */
function imageRows(images: readonly ImageRecord[], displayName: (name: string) => string): ImageRow[] {
  return images.flatMap(image => {
    const platform = [image.os, image.architecture, image.variant]
      .filter(part => part !== undefined)
      .join('/')
    const row = (shown: string, canonical: string): ImageRow => {
      const colon = shown.lastIndexOf(':')
      const repository = canonical.slice(0, canonical.lastIndexOf(':'))
      const digest = image.repoDigests.find(each => each.startsWith(`${repository}@`))
      return {
        id: image.id,
        name: shown,
        repository: shown.slice(0, colon),
        tag: shown.slice(colon + 1),
        digest: digest?.slice(digest.indexOf('@') + 1) ?? null,
        size: image.size,
        platform,
        created: image.created === undefined ? null : new Date(image.created).toISOString(),
        createdAt: image.created ?? image.added,
      }
    }
    if (image.tags.length === 0) return [{ ...row('<none>:<none>', ':'), name: '<none>' }]
    return image.tags.map(tag => row(displayName(tag), tag))
  })
}
