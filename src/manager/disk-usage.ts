/** What takes how much: from rows alone, but for containers' writable layers and volumes, which are walked. */
import type { Containers } from './containers.js'
import type { Digest } from '../oci/index.js'
import type { StoreContext } from './store-context.js'
import type { Volumes } from './volumes/volumes.js'

export interface UsageLine {
  readonly count: number
  /** Of these, in use. */
  readonly active: number
  readonly size: number
  readonly reclaimable: number
}

export interface ImageUsage {
  readonly id: Digest
  readonly size: number
  /** Bytes in layers that other images have too. */
  readonly shared: number
  readonly unique: number
  readonly containers: number
}

export interface ContainerUsage {
  readonly id: string
  readonly name: string
  readonly size: number
  readonly driver: string
}

export interface OneVolume {
  readonly name: string
  /** One with driver options counts while it is mounted. */
  readonly size: number
  /** How many containers were made with it, and others have it mounted. */
  readonly users: number
}

export interface DiskUsage {
  readonly images: UsageLine
  readonly layers: UsageLine
  readonly containers: UsageLine
  readonly volumes: UsageLine
  readonly buildCache: UsageLine
  readonly perImage: readonly ImageUsage[]
  readonly perContainer: readonly ContainerUsage[]
  readonly perVolume: readonly OneVolume[]
}

interface ChainRow {
  chain_id: string
  diff_id: string
  parent: string | null
  pinned: number
}

/** Rows of one snapshot, with what can be reached from where. */
class Rows {
  readonly #chains: ReadonlyMap<string, ChainRow>
  readonly sizes: ReadonlyMap<string, number>

  constructor(readonly context: StoreContext) {
    const { db } = context
    const chains = db.all<ChainRow>('SELECT chain_id, diff_id, parent, pinned FROM chains')
    this.#chains = new Map(chains.map(row => [row.chain_id, row]))
    const layers = db.all<{ diff_id: string; size: number }>('SELECT diff_id, size FROM layers')
    this.sizes = new Map(layers.map(row => [row.diff_id, row.size]))
  }

  get pinned(): string[] {
    return [...this.#chains.values()].filter(row => row.pinned === 1).map(row => row.chain_id)
  }

  /** The layers of some chains and of all below them. */
  reach(chains: Iterable<string | null>): Set<string> {
    const layers = new Set<string>()
    const seen = new Set<string>()
    for (const first of chains) {
      for (let next = first; next !== null && !seen.has(next);) {
        seen.add(next)
        const row = this.#chains.get(next)
        if (row === undefined) break
        layers.add(row.diff_id)
        next = row.parent
      }
    }
    return layers
  }

  sum(layers: Iterable<string>): number {
    let bytes = 0
    for (const layer of layers) bytes += this.sizes.get(layer) ?? 0
    return bytes
  }

  column(sql: string): (string | null)[] {
    return this.context.db.all<{ chain_id: string | null }>(sql).map(row => row.chain_id)
  }
}

export async function diskUsage(
  context: StoreContext,
  containers: Containers,
  volumes: Volumes,
): Promise<DiskUsage> {
  const perContainer: ContainerUsage[] = []
  for (const container of containers.list()) {
    const { bytes } = await containers.usage(container)
    perContainer.push({ id: container.id, name: container.name, size: bytes, driver: container.driver })
  }
  const perVolume = volumes.list().map(volume => ({
    name: volume.name,
    size: volumes.usage(volume).bytes,
    users: volumes.users(volume).length,
  }))
  return context.db.snapshot(() => usageOf(new Rows(context), perContainer, perVolume))
}

function usageOf(
  rows: Rows,
  perContainer: readonly ContainerUsage[],
  perVolume: readonly OneVolume[],
): DiskUsage {
  const { db } = rows.context
  const images = db.all<{ id: Digest; chain_id: string | null; containers: number }>(
    'SELECT id, chain_id, (SELECT count(*) FROM containers WHERE image = images.id) AS containers FROM images',
  )
  const mounted = new Set(
    db
      .all<{ container: string | null }>("SELECT container FROM mounts WHERE kind = 'container'")
      .map(row => row.container),
  )
  const inUse = rows.reach([
    ...rows.column('SELECT chain_id FROM containers'),
    ...rows.column('SELECT chain_id FROM mounts'),
    ...rows.pinned,
  ])
  const ofImages = rows.reach(images.map(image => image.chain_id))
  const cached = rows.column('SELECT chain_id FROM build_cache')
  const ofCache = rows.reach(cached)
  const without = (layers: ReadonlySet<string>, ...others: ReadonlySet<string>[]): string[] =>
    [...layers].filter(layer => !others.some(other => other.has(layer)))
  const cacheOnly = rows.sum(without(ofCache, ofImages, inUse))
  const idle = perContainer.filter(one => !mounted.has(one.id))
  const unused = perVolume.filter(one => one.users === 0)
  const total = (list: readonly { readonly size: number }[]): number =>
    list.reduce((sum, one) => sum + one.size, 0)
  const layerSize = rows.sum(rows.sizes.keys())
  return {
    images: {
      count: images.length,
      active: images.filter(image => image.containers > 0).length,
      size: rows.sum(ofImages),
      reclaimable: rows.sum(without(ofImages, inUse, ofCache)),
    },
    layers: {
      count: rows.sizes.size,
      active: inUse.size,
      size: layerSize,
      reclaimable: layerSize - rows.sum(inUse),
    },
    containers: {
      count: perContainer.length,
      active: mounted.size,
      size: total(perContainer),
      reclaimable: total(idle),
    },
    volumes: {
      count: perVolume.length,
      active: perVolume.length - unused.length,
      size: total(perVolume),
      reclaimable: total(unused),
    },
    buildCache: { count: cached.length, active: 0, size: cacheOnly, reclaimable: cacheOnly },
    perImage: imageUsage(rows, images),
    perContainer,
    perVolume,
  }
}

function imageUsage(
  rows: Rows,
  images: readonly { id: Digest; chain_id: string | null; containers: number }[],
): ImageUsage[] {
  const layersOf = images.map(image => rows.reach([image.chain_id]))
  const holders = new Map<string, number>()
  for (const layers of layersOf) for (const layer of layers) holders.set(layer, (holders.get(layer) ?? 0) + 1)
  return images.map(({ id, containers }, index) => {
    const layers = layersOf[index] ?? new Set<string>()
    const size = rows.sum(layers)
    const shared = rows.sum([...layers].filter(layer => (holders.get(layer) ?? 0) > 1))
    return { id, size, shared, unique: size - shared, containers }
  })
}
