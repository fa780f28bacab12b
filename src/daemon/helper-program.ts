import { spawn } from 'node:child_process'
import { toBuffer, toUtf8, type ByteName } from '../base/bytes.js'

/**
 * Runs a program with arguments that may be any bytes, and takes its standard error.
 * `socket` becomes its descriptor 3 and `_FUSE_COMMFD` says so, as fusermount3 wants it.
 * Undefined when there is no such program.
 */
export function runHelper(
  program: string,
  args: readonly ByteName[],
  socket?: number,
): Promise<{ code: number; stderr: string } | undefined> {
  // child_process encodes arguments as UTF-8; what is not UTF-8 goes through the shell's printf.
  const plain = args.every(arg => Buffer.from(toBuffer(arg).toString('utf8')).equals(toBuffer(arg)))
  const [command, argv] = plain ? [program, args.map(toUtf8)] : ['sh', ['-c', shellCommand(program, args)]]
  return new Promise(resolve => {
    const child = spawn(command, argv, {
      cwd: '/',
      env: socket === undefined ? process.env : { ...process.env, _FUSE_COMMFD: '3' },
      stdio: ['ignore', 'ignore', 'pipe', ...(socket === undefined ? [] : [socket])],
    })
    let stderr = ''
    child.stderr?.setEncoding('utf8').on('data', (chunk: string) => (stderr += chunk))
    child.once('error', () => resolve(undefined))
    child.once('close', code =>
      resolve(code === 127 ? undefined : { code: code ?? 1, stderr: stderr.trim() }),
    )
  })
}

/** `$(…)` cuts trailing newlines off, so each value carries a dot behind it that is taken away where it is used. */
function shellCommand(program: string, args: readonly ByteName[]): string {
  const values = args.map((arg, i) => {
    const octal = arg.replace(/[^\w/.,=-]/g, c => `\\0${c.charCodeAt(0).toString(8).padStart(3, '0')}`)
    return `a${i}=$(printf '%b.' '${octal}')`
  })
  return `${values.join('; ')}; exec ${program} ${args.map((_arg, i) => `"\${a${i}%.}"`).join(' ')}`
}
