import { control } from './control.js'
import { database } from './database.js'
import { decoder } from './decoder.js'
import { state } from './state.js'
import { tarReader } from './tar.js'
import { xattrs } from './xattrs.js'

export const TARGETS = { decoder, control, xattrs, state, database, tar: tarReader }
export type TargetName = keyof typeof TARGETS
