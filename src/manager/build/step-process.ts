/**
 * The process of a RUN step, noted in the scratch directory of the step: after kill -9 of the build, whoever sweeps that directory
 * ends it first. It would run on otherwise, and hold the mount.
 */
import { readFileSync, renameSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { endProcess, startTimeOf, type RunningProcess } from '../containers/uses.js'
import { bootId } from '../mount-table.js'

const NAME = 'process.json'

/** Before it runs where that can be. */
export function noteProcess(scratch: string, process: RunningProcess): void {
  const path = join(scratch, NAME)
  writeFileSync(`${path}.new`, JSON.stringify(process))
  renameSync(`${path}.new`, path)
}

/** Of the program that keeps namespaces of our own. */
export function noteKeeper(scratch: string, pid: number | undefined): void {
  const startTime = pid === undefined ? undefined : startTimeOf(pid)
  if (pid === undefined || startTime === undefined) return
  noteProcess(scratch, { kind: 'namespaces', pid, startTime, boot: bootId() })
}

/** For a sweep, which holds the claim on the directory. */
export function endNoted(scratch: string): void {
  let process: RunningProcess
  try {
    process = JSON.parse(readFileSync(join(scratch, NAME), 'utf8')) as RunningProcess
  } catch {
    return // no RUN step, it had not begun, or a power cut has ended it and torn this file
  }
  endProcess(process)
}
