import { StoreError } from '../store-error.js'

const UNITS: Readonly<Record<string, number>> = {
  '': 1,
  b: 1,
  k: 2 ** 10,
  m: 2 ** 20,
  g: 2 ** 30,
  t: 2 ** 40,
  p: 2 ** 50,
}

/** `64m`, `1g`, `65536`: bytes, in powers of 1024 as docker/go-units RAMInBytes has them. @throws StoreError invalid */
export function parseSize(text: string, what: string): number {
  const match = /^(\d+(?:\.\d+)?) ?([kmgtp]?)(i?b)?$/i.exec(text)
  const bytes = Math.floor(Number(match?.[1] ?? NaN) * (UNITS[(match?.[2] ?? '').toLowerCase()] ?? NaN))
  if (Number.isSafeInteger(bytes)) return bytes
  throw new StoreError('invalid', `${what}: '${text}' is not a size`, 'a number of bytes, or 64k, 512m, 2g')
}
