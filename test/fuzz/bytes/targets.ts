import { control } from './control.js'
import { database } from './database.js'
import { decoder } from './decoder.js'
import { state } from './state.js'
import { xattrs } from './xattrs.js'

export const TARGETS = { decoder, control, xattrs, state, database }
export type TargetName = keyof typeof TARGETS
