import { writeFileSync } from 'node:fs'
import { toUtf8 } from '../base/bytes.js'
import { exploreImage, pruneTree, type Exploration } from '../manager/explore.js'
import { shortDigest } from '../manager/layers.js'
import type { Store } from '../manager/store.js'
import { explorePage } from './explore-page.js'
import { CliError, humanSize, jsonName, print, printable, printJson, table } from './output.js'

interface ExploreArguments {
  html?: string
  format: string
  top: string
}

/** `lamina image explore`. */
export async function exploreCommand(store: Store, ref: string, options: ExploreArguments): Promise<void> {
  if (!/^\d+$/.test(options.top)) throw new CliError(`--top takes a number, not ${options.top}`, 2)
  const found = exploreImage(store, ref)
  if (options.html !== undefined) {
    writeFileSync(options.html, explorePage(found, pruneTree(found.tree, 4000)))
    print(`Wrote ${options.html}`)
  } else if (options.format === 'json') {
    printJson(exploreJson(found))
  } else if (options.format === 'table') {
    print(exploreText(found, Number(options.top)))
  } else {
    throw new CliError(`--format takes table or json, not ${options.format}`, 2)
  }
  await Promise.resolve()
}

export function exploreJson(found: Exploration): object {
  return {
    ...found,
    wastedFiles: found.wastedFiles.map(({ path, ...rest }) => ({ ...jsonName('path', `/${path}`), ...rest })),
    // Names of the tree as people read them; the exact bytes are in the layers.
    tree: readable(pruneTree(found.tree, 20_000)),
  }
}

type Node = Exploration['tree']

function readable(node: Node): Node {
  const children = node.children?.map(readable)
  return { ...node, name: toUtf8(node.name), ...(children === undefined ? {} : { children }) }
}

function exploreText(found: Exploration, top: number): string {
  const percent = (100 * found.efficiency).toFixed(1)
  const lines = [
    `${found.image}: ${humanSize(found.stored)} stored, ${humanSize(found.visible)} visible, ${humanSize(found.wasted)} wasted (${percent}% efficient)`,
    '',
    table(
      ['#', 'LAYER', 'SIZE', 'ADDED', 'CHANGED', 'DELETED', 'WASTED', 'CREATED BY'],
      found.layers.map(layer => [
        layer.index + 1,
        shortDigest(layer.diffId),
        humanSize(layer.size),
        `${layer.added.entries} (${humanSize(layer.added.bytes)})`,
        `${layer.changed.entries} (${humanSize(layer.changed.bytes)})`,
        `${layer.deleted.entries} (${humanSize(layer.deleted.bytes)})`,
        humanSize(layer.wasted),
        cut(layer.createdBy.replace(/\s+/g, ' '), 50),
      ]),
    ),
  ]
  if (found.wastedFiles.length > 0) {
    lines.push(
      '',
      `Largest of ${found.wastedFiles.length} wasted files:`,
      table(
        ['BYTES', 'STORED IN', 'HIDDEN BY', 'HOW', 'PATH'],
        found.wastedFiles
          .slice(0, top)
          .map(file => [
            humanSize(file.bytes),
            `#${file.layer + 1}`,
            `#${file.hiddenBy + 1}`,
            file.how,
            printable(`/${file.path}`),
          ]),
      ),
    )
  }
  return lines.join('\n')
}

function cut(text: string, width: number): string {
  const shown = printable(Buffer.from(text).toString('latin1'))
  return shown.length > width ? `${shown.slice(0, width - 1)}…` : shown
}
