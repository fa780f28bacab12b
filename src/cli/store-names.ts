/** Names of the store, for the shell to complete: which command takes which, and where. */
import { existsSync } from 'node:fs'
import type { Store } from '../manager/store.js'
import { enterNamespace } from './store-command.js'

export interface Typed {
  /** `--root` */
  readonly root: string | undefined
  /** The arguments before the one that is being typed. */
  readonly before: readonly string[]
}

type Names = (store: Store, typed: Typed) => Promise<string[]> | string[]

const containers: Names = store => store.containers.list().map(one => one.name)
const volumes: Names = store => store.volumes.list().map(one => one.name)
const images: Names = async store => {
  const { displayName } = await import('../manager/images.js')
  return store.images.list().flatMap(image => image.tags.map(displayName))
}
const snapshots: Names = async (store, { before }) => {
  const { listSnapshots } = await import('../manager/volumes/snapshots.js')
  return listSnapshots(store, store.volumes.find(before[0] ?? '')).map(one => one.name)
}
const places: Names = store => store.containers.list().map(one => `${one.name}:`)
const none: Names = () => []

/** One for each argument; the last one for all that follow. */
const ARGUMENTS: Readonly<Record<string, readonly Names[]>> = {
  run: [images, none],
  exec: [containers, none],
  commit: [containers, none],
  start: [containers],
  stop: [containers],
  restart: [containers],
  kill: [containers],
  wait: [containers],
  logs: [containers, none],
  'container create': [images, none],
  'container mount': [containers, none],
  'container umount': [containers],
  'container inspect': [containers],
  'container diff': [containers, none],
  'container export': [containers, none],
  'container rename': [containers, none],
  'container rm': [containers],
  'container commit': [containers, none],
  'container start': [containers],
  'container stop': [containers],
  'container restart': [containers],
  'container kill': [containers],
  'container wait': [containers],
  'container logs': [containers, none],
  'container bundle': [containers, none],
  'container cp': [places],
  'volume inspect': [volumes],
  'volume rm': [volumes],
  'volume update': [volumes, none],
  'volume rename': [volumes, none],
  'volume backup': [volumes, none],
  'volume clone': [volumes, none],
  'volume release': [volumes, none],
  'volume snapshot create': [volumes, none],
  'volume snapshot ls': [volumes, none],
  'volume snapshot rm': [volumes, snapshots],
  'image inspect': [images],
  'image history': [images, none],
  'image rm': [images],
  'image save': [images],
  'image push': [images, none],
  'image tag': [images, none],
  'image export': [images, none],
  'image diff': [images, images, none],
  'image explore': [images, none],
  'image mount': [images, none],
  'image umount': [images],
}

/** Nothing where there is no store: looking for names makes none. */
export async function storeNames(command: string, typed: Typed): Promise<string[]> {
  const wanted = ARGUMENTS[command]
  const names = wanted?.[typed.before.length] ?? wanted?.at(-1)
  if (names === undefined || names === none) return []
  const { storeRoot } = await import('../manager/paths.js')
  if (!existsSync(storeRoot(typed.root))) return []
  await enterNamespace()
  const { Store } = await import('../manager/store.js')
  using store = await Store.open(typed.root === undefined ? {} : { root: typed.root })
  return (await names(store, typed)).filter(name => !typed.before.includes(name))
}
