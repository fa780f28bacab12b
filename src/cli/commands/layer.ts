import { createReadStream, statSync } from 'node:fs'
import type { Command } from 'commander'
import { humanSize, jsonName, print, printable, printJson } from '../output.js'
import { listFormatOption, printList, printObjects } from '../listing.js'
import { ProgressBars } from '../progress.js'
import { onStore, shortTime, withStore } from '../store-command.js'
import type { ChainRecord } from '../../manager/layers.js'

/** `lamina layer`: the layers that images are made of. */

interface CreateOptions {
  parent?: string
  diffId?: string
}

export function register(program: Command): void {
  const layer = program.command('layer').description('the layers that images are made of')

  onStore(layer.command('create'))
    .description('store a layer from a directory, a tar (plain, gzip, zstd) or standard input')
    .argument('<source>', 'a directory, a file, or - for standard input')
    .option('--parent <layer>', 'the layer that it stands on')
    .option('--diff-id <digest>', 'the digest that the uncompressed tar must have')
    .addHelpText(
      'after',
      `
Prints the chainID. A layer that is stored already is not stored twice. It stays until 'lamina layer rm'.

Examples:
  lamina layer create ./rootfs
  lamina layer create --parent 3f2a91c07d11 changes.tar.zst
  tar -C /srv/base -c . | lamina layer create -`,
    )
    .action(async (source: string, options: CreateOptions, command: Command) => {
      print(await withStore(command, (store, signal) => createLayer(store, source, options, signal)))
    })

  onStore(layer.command('import'))
    .description('store a layer from a tar: the same as create')
    .argument('<file>', 'a tar, or - for standard input')
    .option('--parent <layer>', 'the layer that it stands on')
    .option('--diff-id <digest>', 'the digest that the uncompressed tar must have')
    .addHelpText('after', '\nExample:\n  lamina layer import --parent 3f2a91c07d11 layer.tar.gz')
    .action(async (source: string, options: CreateOptions, command: Command) => {
      print(await withStore(command, (store, signal) => createLayer(store, source, options, signal)))
    })

  onStore(layer.command('export'))
    .description('write the tar of a layer, with the digest that it came with')
    .argument('<layer>')
    .option('-o, --output <file>', 'where to; standard output otherwise')
    .option('--compression <kind>', 'plain, gzip or zstd', 'plain')
    .addHelpText('after', '\nExample:\n  lamina layer export -o layer.tar 3f2a91c07d11')
    .action(async (ref: string, options: { output?: string; compression: string }, command: Command) => {
      await withStore(command, async (store, signal) => {
        const { writeOut } = await import('../write-out.js')
        const record = store.layers.find(ref).layer
        await writeOut(store.layers.tar(record), options.output, 'a layer', {
          compression: options.compression,
          total: record.tarSize,
          signal,
        })
      })
    })

  onStore(layer.command('ls'))
    .alias('list')
    .description('list the stored layers')
    .option('-q, --quiet', 'print chainIDs only')
    .addOption(listFormatOption())
    .addHelpText(
      'after',
      "\nExamples:\n  lamina layer ls\n  lamina layer ls --format '{{.chainId}} {{.size}}'",
    )
    .action(async (options: { quiet?: boolean; format: string }, command: Command) => {
      await withStore(command, async store => {
        const { shortDigest } = await import('../../manager/layers.js')
        const chains = store.layers.listChains()
        if (options.quiet === true) {
          for (const chain of chains) print(chain.chainId)
          return
        }
        printList(
          chains,
          [
            { head: 'LAYER', cell: chain => shortDigest(chain.chainId) },
            { head: 'PARENT', cell: chain => (chain.parent === undefined ? '-' : shortDigest(chain.parent)) },
            { head: 'DIFFID', cell: chain => shortDigest(chain.diffId) },
            { head: 'SIZE', cell: chain => humanSize(chain.layer.size) },
            { head: 'STACK', cell: chain => humanSize(chain.size) },
            { head: 'ENTRIES', cell: chain => chain.layer.entries },
            { head: 'CREATED', cell: chain => shortTime(chain.created) },
          ],
          chainJson,
          options.format,
        )
      })
    })

  onStore(layer.command('tree'))
    .description('show which layer stands on which, with the images on top')
    .addHelpText('after', '\nExample:\n  lamina layer tree')
    .action(async (_options: object, command: Command) => {
      await withStore(command, async store => {
        const { layerTreeLines } = await import('../layer-tree-lines.js')
        print(layerTreeLines(store).join('\n'))
      })
    })

  onStore(layer.command('inspect'))
    .description('show all about layers')
    .argument('<layer...>')
    .option('--format <template>', "a template instead of JSON: '{{.diffId}}'")
    .addHelpText('after', '\nExample:\n  lamina layer inspect 3f2a91c07d11')
    .action(async (refs: string[], options: { format?: string }, command: Command) => {
      await withStore(command, store => {
        const found = refs.map(ref => {
          const chain = store.layers.find(ref)
          return {
            ...chainJson(chain),
            path: store.layers.tree(chain.layer),
            usedBy: store.layers.users(chain),
          }
        })
        printObjects(found, options.format)
      })
    })

  onStore(layer.command('diff'))
    .description('list what a layer adds (A), changes (C) and deletes (D) in those below it')
    .argument('<layer>')
    .option('--format <format>', 'table or json', 'table')
    .addHelpText('after', '\nExample:\n  lamina layer diff 3f2a91c07d11')
    .action(async (ref: string, options: { format: string }, command: Command) => {
      await withStore(command, store => {
        const changes = store.layers.changes(store.layers.find(ref))
        if (options.format === 'json') {
          printJson([...changes].map(({ kind, path }) => ({ kind, ...jsonName('path', `/${path}`) })))
          return
        }
        for (const { kind, path } of changes) print(`${kind} ${printable(`/${path}`)}`)
      })
    })

  onStore(layer.command('verify'))
    .description('read layers and compare them with their digests')
    .argument('[layer...]', 'all layers when none is named')
    .addHelpText('after', '\nExample:\n  lamina layer verify')
    .action(async (refs: string[], _options: object, command: Command) => {
      const wrong = await withStore(command, async (store, signal) => {
        const { shortDigest } = await import('../../manager/layers.js')
        const layers = refs.length > 0 ? refs.map(ref => store.layers.find(ref).layer) : store.layers.list()
        let bad = 0
        for (const record of layers) {
          const problem = await store.layers.verify(record, signal)
          if (problem !== undefined) bad += 1
          print(`${shortDigest(record.diffId)}  ${problem ?? 'ok'}`)
        }
        return bad
      })
      process.exitCode = wrong > 0 ? 1 : 0
    })

  onStore(layer.command('rm'))
    .description('remove layers that nothing uses')
    .argument('<layer...>')
    .addHelpText('after', '\nExample:\n  lamina layer rm 3f2a91c07d11')
    .action(async (refs: string[], _options: object, command: Command) => {
      await withStore(command, async store => {
        for (const ref of refs) {
          const { chainId } = store.layers.find(ref)
          await store.layers.remove(ref)
          print(chainId)
        }
      })
    })
}

async function createLayer(
  store: Parameters<Parameters<typeof withStore>[1]>[0],
  source: string,
  options: CreateOptions,
  signal: AbortSignal,
): Promise<string> {
  const { parseDigest } = await import('../../oci/digest.js')
  const { packTree } = await import('../../manager/layer-tar.js')
  const isDir = source !== '-' && statSync(source).isDirectory()
  const bytes = isDir
    ? packTree(source, store.ownership, signal)
    : source === '-'
      ? process.stdin
      : createReadStream(source)
  const total = source === '-' || isDir ? undefined : statSync(source).size
  const parent = options.parent === undefined ? undefined : store.layers.find(options.parent).chainId
  using lease = store.lease()
  using bars = new ProgressBars()
  const layer = await store.layers.add(bytes, lease, {
    signal,
    trusted: true,
    what: source === '-' ? 'standard input' : source,
    ...(options.diffId === undefined ? {} : { diffId: parseDigest(options.diffId, '--diff-id') }),
    onBytes: done => bars.update('layer', 'layer', done, total),
  })
  const chainId = store.layers.link(layer.diffId, parent, lease)
  store.layers.pin(chainId)
  return chainId
}

function chainJson(chain: ChainRecord): object {
  return {
    chainId: chain.chainId,
    diffId: chain.diffId,
    parent: chain.parent ?? null,
    depth: chain.depth,
    size: chain.layer.size,
    diskSize: chain.layer.disk,
    tarSize: chain.layer.tarSize,
    entries: chain.layer.entries,
    stackSize: chain.size,
    pinned: chain.pinned,
    created: new Date(chain.created).toISOString(),
  }
}
