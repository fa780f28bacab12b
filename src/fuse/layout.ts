/**
 * Binary layouts of kernel structs, declared once and checked when the module loads.
 *
 * FUSE speaks the host's byte order and the C alignment of its structs, every one of which is padded by hand to a
 * multiple of 8 bytes. A field is therefore always aligned to its own size, and a 64-bit field is two words.
 */

type Scalar = 'u8' | 'u16' | 'u32' | 's32' | 'u64' | 's64'
export type FieldType = Scalar | readonly [Scalar, number] | Layout<string>

const SCALAR_SIZE: Readonly<Record<Scalar, number>> = { u8: 1, u16: 2, u32: 4, s32: 4, u64: 8, s64: 8 }

export interface Field {
  readonly offset: number
  /** Bytes, of the whole array where the field is one. */
  readonly size: number
  readonly type: FieldType
}

export interface Layout<K extends string = string> {
  /** The kernel's name of the struct. */
  readonly name: string
  readonly size: number
  /** Offset of each field, in bytes. */
  readonly at: Readonly<Record<K, number>>
  readonly fields: Readonly<Record<K, Field>>
}

function sizeOf(type: FieldType): { size: number; align: number } {
  if (typeof type === 'string') return { size: SCALAR_SIZE[type], align: SCALAR_SIZE[type] }
  if ('name' in type) return { size: type.size, align: type.size % 8 === 0 ? 8 : 4 }
  const [scalar, count] = type
  return { size: SCALAR_SIZE[scalar] * count, align: SCALAR_SIZE[scalar] }
}

/**
 * Declares a struct.
 * @throws Error when the fields do not add up to `size`, or one is not aligned as C would align it
 */
export function layout<const F extends Record<string, FieldType>>(
  name: string,
  size: number,
  fields: F,
): Layout<Extract<keyof F, string>> {
  type K = Extract<keyof F, string>
  const at: Record<string, number> = {}
  const described: Record<string, Field> = {}
  let offset = 0
  for (const [field, type] of Object.entries(fields)) {
    const { size: fieldSize, align } = sizeOf(type)
    if (offset % align !== 0) throw new Error(`${name}.${field} at ${offset} is not aligned to ${align}`)
    at[field] = offset
    described[field] = Object.freeze({ offset, size: fieldSize, type })
    offset += fieldSize
  }
  if (offset !== size) throw new Error(`${name}: the fields add up to ${offset} bytes, not ${size}`)
  return Object.freeze({
    name,
    size,
    at: Object.freeze(at) as Record<K, number>,
    fields: Object.freeze(described) as Record<K, Field>,
  })
}
