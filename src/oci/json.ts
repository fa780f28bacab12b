import { OciError } from './error.js'

/** A JSON object of which only some fields are known; the rest is kept as it came. */
export type JsonObject = { [key: string]: unknown }

/**
 * Parses JSON that must be an object.
 * @throws OciError `limit` above `max` bytes, `malformed` when it is not JSON, not an object, or not UTF-8
 */
export function parseJsonObject(data: Uint8Array | string, max: number, what: string): JsonObject {
  if (data.length > max) throw new OciError('limit', `${what} is larger than ${max} bytes`)
  let value: unknown
  try {
    value = JSON.parse(
      typeof data === 'string' ? data : new TextDecoder('utf-8', { fatal: true }).decode(data),
    )
  } catch (error) {
    throw new OciError('malformed', `${what} is not valid JSON`, { cause: error })
  }
  return asObject(value, what)
}

export function isObject(value: unknown): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

export function asObject(value: unknown, what: string): JsonObject {
  if (!isObject(value)) throw new OciError('malformed', `${what} is not a JSON object`)
  return value
}

/** Array of at most `max` elements; absent and null count as empty, as Go's encoder writes null for a nil slice. */
export function asArray(value: unknown, max: number, what: string): unknown[] {
  if (value === undefined || value === null) return []
  if (!Array.isArray(value)) throw new OciError('malformed', `${what} is not an array`)
  if (value.length > max) throw new OciError('limit', `${what} has more than ${max} elements`)
  return value
}

export function asString(value: unknown, what: string, max = 4096): string {
  if (typeof value !== 'string') throw new OciError('malformed', `${what} is not a string`)
  if (value.length > max) throw new OciError('limit', `${what} is longer than ${max} characters`)
  return value
}

export function optionalString(value: unknown, what: string, max = 4096): string | undefined {
  return value === undefined || value === null ? undefined : asString(value, what, max)
}

/** A whole number of at least 0 that a JavaScript number holds exactly. */
export function asSize(value: unknown, what: string): number {
  if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < 0) {
    throw new OciError('malformed', `${what} is not a size`)
  }
  return value
}

export function asStrings(value: unknown, max: number, what: string, maxLength = 1 << 20): string[] {
  return asArray(value, max, what).map((element, i) => asString(element, `${what}[${i}]`, maxLength))
}

export function asStringMap(value: unknown, max: number, what: string): Record<string, string> {
  if (value === undefined || value === null) return {}
  const object = asObject(value, what)
  const keys = Object.keys(object)
  if (keys.length > max) throw new OciError('limit', `${what} has more than ${max} entries`)
  const result: Record<string, string> = {}
  for (const key of keys) result[key] = asString(object[key], `${what}.${key}`, 1 << 20)
  return result
}
