/** What takes how much: from rows alone, but for containers' writable layers, which are walked. */
import type { Containers } from './containers.js'
import type { Digest } from '../oci/index.js'
import type { StoreContext } from './store-context.js'

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

export interface DiskUsage {
  readonly images: UsageLine
  readonly layers: UsageLine
  readonly containers: UsageLine
  readonly buildCache: UsageLine
  readonly perImage: readonly ImageUsage[]
  readonly perContainer: readonly ContainerUsage[]
}

/** Every chain with all it stands on, by who needs it. `owner` is of the query before it. */
function reach(roots: string): string {
  return `WITH RECURSIVE up (owner, chain_id) AS (
    ${roots}
    UNION
    SELECT up.owner, c.parent FROM up JOIN chains AS c ON c.chain_id = up.chain_id WHERE c.parent IS NOT NULL
  )`
}

const LAYERS_OF =
  'SELECT DISTINCT up.owner, l.diff_id, l.size FROM up JOIN chains AS c USING (chain_id) JOIN layers AS l USING (diff_id)'

export async function diskUsage(context: StoreContext, containers: Containers): Promise<DiskUsage> {
  const { db } = context
  const perContainer: ContainerUsage[] = []
  for (const container of containers.list()) {
    const { bytes } = await containers.usage(container)
    perContainer.push({ id: container.id, name: container.name, size: bytes, driver: container.driver })
  }
  const mounted = new Set(
    db
      .all<{ container: string }>("SELECT container FROM mounts WHERE kind = 'container'")
      .map(row => row.container),
  )
  return db.snapshot(() => {
    const perImage = imageUsage(context)
    const sum = (sql: string, ...params: string[]): number =>
      db.get<{ n: number | null }>(sql, ...params)?.n ?? 0
    const used = `SELECT '' AS owner, chain_id FROM containers WHERE chain_id IS NOT NULL
      UNION SELECT '', chain_id FROM mounts WHERE chain_id IS NOT NULL
      UNION SELECT '', chain_id FROM chains WHERE pinned = 1`
    const usedSize = sum(`${reach(used)} SELECT sum(size) AS n FROM (${LAYERS_OF})`)
    const usedCount = sum(`${reach(used)} SELECT count(*) AS n FROM (${LAYERS_OF})`)
    const layerCount = sum('SELECT count(*) AS n FROM layers')
    const layerSize = sum('SELECT sum(size) AS n FROM layers')
    const ofImages = "SELECT '' AS owner, chain_id FROM images WHERE chain_id IS NOT NULL"
    const imageSize = sum(`${reach(ofImages)} SELECT sum(size) AS n FROM (${LAYERS_OF})`)
    const ofOthers = `${used} UNION SELECT '', chain_id FROM build_cache WHERE chain_id IS NOT NULL`
    const imageOnly = sum(
      `${reach(`SELECT 'image' AS owner, chain_id FROM images WHERE chain_id IS NOT NULL
          AND id NOT IN (SELECT image FROM containers WHERE image IS NOT NULL)
        UNION SELECT 'other', chain_id FROM (${ofOthers})
        UNION SELECT 'other', chain_id FROM images WHERE id IN (SELECT image FROM containers)`)}
       SELECT sum(size) AS n FROM (SELECT diff_id, size, max(owner = 'other') AS other FROM (${LAYERS_OF}) GROUP BY diff_id, size) WHERE other = 0`,
    )
    const cacheOnly = sum(
      `${reach(`SELECT 'cache' AS owner, chain_id FROM build_cache WHERE chain_id IS NOT NULL
        UNION SELECT 'other', chain_id FROM images WHERE chain_id IS NOT NULL
        UNION SELECT 'other', chain_id FROM (${used})`)}
       SELECT sum(size) AS n FROM (SELECT diff_id, size, max(owner = 'other') AS other FROM (${LAYERS_OF}) GROUP BY diff_id, size) WHERE other = 0`,
    )
    const cacheCount = sum('SELECT count(*) AS n FROM build_cache')
    const containerSize = perContainer.reduce((total, one) => total + one.size, 0)
    const idle = perContainer.filter(one => !mounted.has(one.id))
    return {
      images: {
        count: perImage.length,
        active: perImage.filter(image => image.containers > 0).length,
        size: imageSize,
        reclaimable: imageOnly,
      },
      layers: { count: layerCount, active: usedCount, size: layerSize, reclaimable: layerSize - usedSize },
      containers: {
        count: perContainer.length,
        active: mounted.size,
        size: containerSize,
        reclaimable: idle.reduce((total, one) => total + one.size, 0),
      },
      buildCache: { count: cacheCount, active: 0, size: cacheOnly, reclaimable: cacheOnly },
      perImage,
      perContainer,
    }
  })
}

function imageUsage(context: StoreContext): ImageUsage[] {
  const { db } = context
  const roots = 'SELECT id AS owner, chain_id FROM images WHERE chain_id IS NOT NULL'
  const rows = db.all<{ owner: Digest; size: number; shared: number }>(
    `${reach(roots)}, mine AS (${LAYERS_OF}),
     holders AS (SELECT diff_id, count(*) AS n FROM mine GROUP BY diff_id)
     SELECT mine.owner, sum(mine.size) AS size, sum(CASE WHEN holders.n > 1 THEN mine.size ELSE 0 END) AS shared
     FROM mine JOIN holders USING (diff_id) GROUP BY mine.owner`,
  )
  const sizes = new Map(rows.map(row => [row.owner, row]))
  const counts = new Map(
    db
      .all<{ image: Digest; n: number }>(
        'SELECT image, count(*) AS n FROM containers WHERE image IS NOT NULL GROUP BY image',
      )
      .map(row => [row.image, row.n]),
  )
  return db.all<{ id: Digest }>('SELECT id FROM images').map(({ id }) => {
    const row = sizes.get(id)
    const size = row?.size ?? 0
    const shared = row?.shared ?? 0
    return { id, size, shared, unique: size - shared, containers: counts.get(id) ?? 0 }
  })
}
