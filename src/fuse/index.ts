/** The room's door: what the daemon needs to serve a filesystem on a device. */
export { Again } from './filesystem.js'
export type * from './filesystem.js'
export { FOPEN, FUSE_ROOT_ID, FATTR, INIT_FLAG, type InitFlag } from './flags.js'
export { INIT_DEFAULTS, NegotiatedConnection, type ConnectionState, type InitParameters } from './init.js'
export { Dispatcher, type DispatchCounters, type DispatchOptions } from './dispatch.js'
export {
  Session,
  describeEnd,
  type SessionCounters,
  type SessionEnd,
  type SessionOptions,
} from './session.js'
export { OPCODES, Op, opName, type OpcodeInfo } from './opcodes.js'
export { Frame } from './frame.js'
export {
  isChange,
  isRelease,
  readChange,
  readForgets,
  writeBatchForget,
  type ChangeRequest,
  type RequestJournal,
  type Settled,
} from './request-journal.js'
export type { Transport, TransportCounters } from './transport.js'
export { DeviceTransport, type KeptInput } from './transport-device.js'
export { ReplayTransport, type Reply } from './transport-replay.js'
export { readTrace, type TraceRecord } from './trace.js'
export { PathCalls } from './path-calls.js'
export { PathFiles } from './path-files.js'
