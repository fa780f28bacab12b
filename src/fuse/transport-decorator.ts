import type { Account } from '../sys/account.js'
import type { AnsweredDirectory, Issued, LowerFile, Told } from './filesystem.js'
import type { Transport, TransportCounters } from './transport.js'

/** A transport that passes everything on: the base of those that watch (trace.ts, debug.ts), and so see every request. */
export class TransportDecorator implements Transport {
  readonly input: ArrayBuffer
  readonly output: ArrayBuffer
  readonly newest: Float64Array

  constructor(protected readonly inner: Transport) {
    this.input = inner.input
    this.output = inner.output
    this.newest = inner.newest
    inner.askAll()
  }

  start(onFrame: (length: number) => void, onEnd: (errno: number) => void): void {
    this.inner.start(onFrame, onEnd)
  }
  send(length: number): number {
    return this.inner.send(length)
  }
  sendBuffer(message: Buffer): number {
    return this.inner.sendBuffer(message)
  }
  notify(message: Buffer): number {
    return this.inner.notify(message)
  }
  onNotified(callback: (number: number) => void): void {
    this.inner.onNotified(callback)
  }
  notifying(): number {
    return this.inner.notifying()
  }
  resubmit(frame: Buffer): void {
    this.inner.resubmit(frame)
  }
  registerFile(nodeid: number, fd: number, writable: boolean, ino?: number, told?: Told | 'unknown'): void {
    this.inner.registerFile(nodeid, fd, writable, ino, told)
  }
  fileOf(nodeid: number): number | undefined {
    return this.inner.fileOf(nodeid)
  }
  showFiles(timeout: number): void {
    this.inner.showFiles(timeout)
  }
  limit(account: Account): void {
    this.inner.limit(account)
  }
  unregisterFile(nodeid: number): boolean {
    return this.inner.unregisterFile(nodeid)
  }
  isRegistered(nodeid: number): 0 | 1 | 2 {
    return this.inner.isRegistered(nodeid)
  }
  pin(nodeid: number, on: boolean): void {
    this.inner.pin(nodeid, on)
  }
  keepFiles(max: number): number {
    return this.inner.keepFiles(max)
  }
  followAttributes(nodeid: number, fd: number, oneLink: boolean): void {
    this.inner.followAttributes(nodeid, fd, oneLink)
  }
  answerNames(directory: AnsweredDirectory): void {
    this.inner.answerNames(directory)
  }
  tellFiles(directory: number, files: readonly LowerFile[]): void {
    this.inner.tellFiles(directory, files)
  }
  takeIssued(): readonly Issued[] {
    return this.inner.takeIssued()
  }
  answersChanged(nodeid: number): void {
    this.inner.answersChanged(nodeid)
  }
  hasWork(on: boolean): void {
    this.inner.hasWork(on)
  }
  askAll(): void {
    this.inner.askAll()
  }
  backingOpen(fd: number): number {
    return this.inner.backingOpen(fd)
  }
  backingClose(id: number): number {
    return this.inner.backingClose(id)
  }
  counters(): TransportCounters {
    return this.inner.counters()
  }
  close(): void {
    this.inner.close()
  }
}
