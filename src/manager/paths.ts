/** Where the store lies, and what lies where in it. */
import { accessSync, constants, existsSync, mkdirSync } from 'node:fs'
import { homedir } from 'node:os'
import { dirname, isAbsolute, join, resolve } from 'node:path'
import { inUserNamespace, USERNS_VARIABLE } from './rootless/standing.js'
import { StoreError, causeOf } from './store-error.js'

/**
 * The root of the store: what was asked for, else LAMINA_ROOT, else /var/lib/lamina for root and
 * $XDG_DATA_HOME/lamina or ~/.local/share/lamina for anyone else. Root of a user namespace is anyone else on a host whose
 * /var/lib is not his, and root in a container.
 */
export function storeRoot(asked?: string, env: NodeJS.ProcessEnv = process.env): string {
  const named = asked ?? env['LAMINA_ROOT']
  if (named !== undefined && named !== '') return resolve(named)
  if (isHostRoot()) return '/var/lib/lamina'
  const data = env['XDG_DATA_HOME']
  return data !== undefined && isAbsolute(data)
    ? join(data, 'lamina')
    : join(homedir(), '.local', 'share', 'lamina')
}

function isHostRoot(): boolean {
  if (process.geteuid?.() !== 0) return false
  if (!inUserNamespace()) return true
  if (process.env[USERNS_VARIABLE] !== undefined) return false
  try {
    accessSync(existsSync('/var/lib/lamina') ? '/var/lib/lamina' : '/var/lib', constants.W_OK)
    return true
  } catch {
    return false
  }
}

/** Absolute paths inside one store. All are short: overlay mounts name many of them in one page of options. */
export class StorePaths {
  readonly database: string
  /** Held while the database is created or migrated. */
  readonly migrationLock: string
  /** One file per piece of work in progress: see claims.ts. */
  readonly claims: string
  readonly layers: string
  readonly containers: string
  readonly volumes: string
  /** Trees that a driver keeps per chain. */
  readonly snapshots: string
  /** Downloads that can be resumed: partial/sha256-HEX. */
  readonly partial: string
  /** Scratch space of one command; swept with its claim. */
  readonly scratch: string
  /** Mountpoints of images. */
  readonly mounts: string

  constructor(readonly root: string) {
    this.database = join(root, 'lamina.db')
    this.migrationLock = join(root, 'migration.lock')
    this.claims = join(root, 'claims')
    this.layers = join(root, 'layers')
    this.containers = join(root, 'containers')
    this.volumes = join(root, 'volumes')
    this.snapshots = join(root, 'snapshots')
    this.partial = join(root, 'partial')
    this.scratch = join(root, 'scratch')
    this.mounts = join(root, 'mounts')
  }

  /**
   * Makes what is missing. The root is 0711, what holds files is 0700: an image's setuid programs are not for
   * everybody on the host to run, while a container user can still reach its own mounted rootfs by descriptor.
   */
  make(): void {
    try {
      makeRoot(this.root)
      const inner = [this.claims, this.layers, this.containers, this.volumes, this.snapshots, this.partial]
      for (const dir of [...inner, this.scratch, this.mounts])
        mkdirSync(dir, { recursive: true, mode: 0o700 })
    } catch (error) {
      throw new StoreError(
        'failed',
        `cannot use ${this.root} as the store: ${causeOf(error)}`,
        'run as a user who may write there, or name another directory with --root or LAMINA_ROOT',
        { cause: error },
      )
    }
  }

  /** The tree of a layer, in overlay form (whiteouts as the kernel's overlayfs has them). */
  layerTree(dir: string): string {
    return join(this.layers, dir, 'diff')
  }

  /** What it takes to write the layer's tar again byte for byte. */
  layerRecipe(dir: string): string {
    return join(this.layers, dir, 'recipe')
  }
}

/** Parents first. Not mkdir's own `recursive`: in /proc, where nothing can be made, Node 20 never returns from it. */
function makeRoot(dir: string): void {
  if (existsSync(dir)) return
  makeRoot(dirname(dir))
  makeOne(dir, 0o711)
}

/** Another process may have been faster. */
function makeOne(dir: string, mode: number): void {
  try {
    mkdirSync(dir, { mode })
  } catch (error) {
    if (!existsSync(dir)) throw error
  }
}
