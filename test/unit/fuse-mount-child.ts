/**
 * A daemon with a MemoryFs, started by fuse-mount.test.ts and told over IPC what to do. It never touches its own mount.
 *     {mount: {target, options, init, files}} -> {mounted: true, connection}
 *     {takeOver: {…, connection}}             -> {mounted: true, connection}: serves what another daemon mounted on fd 4
 *     {counters: true}                        -> {counters}
 *     {invalidate: {parent, name, nodeid}}    -> {invalidated: true}
 *     {unmount: target}                       -> {ended, destroyed, fds}
 */
import { closeSync, openSync, readdirSync } from 'node:fs'
import {
  type ConnectionState,
  DeviceTransport,
  type InitParameters,
  NegotiatedConnection,
  Session,
} from '../../src/fuse/index.js'
import * as sys from '../../src/sys/index.js'
import { MemoryFs, type MemoryOptions } from './fuse-memory-fs.js'

interface MountOrder {
  target: string
  /** An inherited device instead of one opened here. */
  device?: number
  options: Partial<MemoryOptions>
  init: Partial<InitParameters>
  files: { prefix: string; count: number; content: string }
}

export interface Order {
  mount?: MountOrder
  takeOver?: MountOrder & { connection: ConnectionState }
  counters?: true
  invalidate?: { parent: number; name: string; nodeid: number }
  unmount?: string
}

const MAX_WRITE = 1024 * 1024

function openFds(): number {
  return readdirSync('/proc/self/fd').length
}

let fs: MemoryFs | undefined
let session: Session | undefined
let fdsBefore = 0

async function mount(order: MountOrder, connection?: ConnectionState): Promise<void> {
  fdsBefore = openFds()
  const device = order.device ?? openSync('/dev/fuse', 'r+')
  const memory = new MemoryFs(order.options)
  const serving = new Session(new DeviceTransport(device, MAX_WRITE), {
    init: order.init,
    ...(connection === undefined ? {} : { adopt: new NegotiatedConnection(connection) }),
  })
  memory.kernel = serving
  for (let i = 0; i < order.files.count; i++)
    memory.populate(`${order.files.prefix}${i}`, Buffer.from(order.files.content))
  serving.start(memory)
  if (connection !== undefined) {
    serving.resend()
    fs = memory
    session = serving
    return
  }
  const data = `fd=${device},rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other`
  try {
    sys.mount('lamina', order.target, 'fuse', sys.MS_NOSUID | sys.MS_NODEV, data)
  } catch (error) {
    closeSync(device)
    throw error
  }
  await serving.initialized
  fs = memory
  session = serving
}

async function obey(order: Order): Promise<unknown> {
  if (order.mount !== undefined) {
    await mount(order.mount)
    return { mounted: true, connection: session?.connection?.toJSON() }
  }
  if (order.takeOver !== undefined) {
    await mount(order.takeOver, order.takeOver.connection)
    return { mounted: true, connection: session?.connection?.toJSON() }
  }
  if (session === undefined || fs === undefined) throw new Error('not mounted')
  if (order.counters !== undefined) return { counters: session.counters() }
  if (order.invalidate !== undefined) {
    session.invalidateEntry(order.invalidate.parent, order.invalidate.name)
    session.invalidateInode(order.invalidate.nodeid, 0, 0)
    return { invalidated: true }
  }
  if (order.unmount !== undefined) {
    const { ended } = session
    sys.umount2(order.unmount)
    const end = await ended
    // Threads let go of their files when they have ended, the loop's handles a turn later.
    while (openFds() > fdsBefore) await new Promise(resolve => setImmediate(resolve))
    return { ended: end, destroyed: fs.destroyed, leaked: openFds() - fdsBefore }
  }
  throw new Error('an unknown order')
}

process.on('message', (order: Order) => {
  obey(order).then(
    answer => process.send?.(answer),
    (error: unknown) => process.send?.({ error: String(error) }),
  )
})
process.on('disconnect', () => process.exit(1))
