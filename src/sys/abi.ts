import { addon } from './addon.js'

/** Where a struct's fields are: name to [offset, size], in bytes. */
export interface StructLayout {
  size: number
  fields: Record<string, [offset: number, size: number]>
}

/** The kernel structs as the addon was compiled with them, for the test that compares the TypeScript layouts. */
export function abi(): Record<string, StructLayout> {
  return addon.abi()
}
