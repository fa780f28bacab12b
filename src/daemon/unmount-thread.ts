import { parentPort, workerData } from 'node:worker_threads'
import { E } from '../base/errno.js'
import { SysError } from '../base/sys-error.js'
import type { UnmountHow } from './control-protocol.js'
import { unmountHere } from './unmount.js'

/** Unmounts and posts the errno, 0 when it is done. */
const { mountpoint, how } = workerData as { mountpoint: string; how: UnmountHow }
try {
  await unmountHere(mountpoint, how)
  parentPort?.postMessage(0)
} catch (error) {
  parentPort?.postMessage(error instanceof SysError ? error.errno : E.EIO)
}
