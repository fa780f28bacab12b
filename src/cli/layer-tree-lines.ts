import type { Store } from '../manager/store.js'
import { displayName } from '../manager/images.js'
import { shortDigest, type ChainRecord } from '../manager/layers.js'
import { humanSize } from './output.js'

/** The forest of chains, one line each, with the names of images on those that they end at. */
export function layerTreeLines(store: Store): string[] {
  const chains = store.layers.listChains()
  const children = new Map<string, ChainRecord[]>()
  for (const chain of chains) {
    const key = chain.parent ?? ''
    children.set(key, [...(children.get(key) ?? []), chain])
  }
  const names = new Map<string, string[]>()
  for (const image of store.images.list()) {
    const shown = image.tags.length > 0 ? image.tags.map(displayName) : [`<none> ${shortDigest(image.id)}`]
    const key = image.chainId ?? ''
    names.set(key, [...(names.get(key) ?? []), ...shown])
  }
  for (const container of store.containers.list()) {
    const key = container.chainId ?? ''
    names.set(key, [...(names.get(key) ?? []), `container ${container.name}`])
  }
  const lines: string[] = []
  // At most 500 deep: what overlayfs can mount.
  const walk = (chain: ChainRecord, prefix: string, isLast: boolean, forked: boolean): void => {
    const branch = forked ? (isLast ? '└─ ' : '├─ ') : ''
    const labels = names.get(chain.chainId)
    const label = labels === undefined ? '' : `  ${labels.join(', ')}`
    const pin = chain.pinned ? '  (kept)' : ''
    lines.push(
      `${prefix}${branch}${shortDigest(chain.chainId)}  ${humanSize(chain.layer.size)}${pin}${label}`,
    )
    const below = forked ? prefix + (isLast ? '   ' : '│  ') : prefix
    const kids = children.get(chain.chainId) ?? []
    for (const [index, kid] of kids.entries()) walk(kid, below, index === kids.length - 1, true)
  }
  for (const root of children.get('') ?? []) walk(root, '', true, false)
  return lines
}
