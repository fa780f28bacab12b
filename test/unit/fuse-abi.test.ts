import t from 'tap'
import type { Layout } from '../../src/fuse/layout.js'
import { layout } from '../../src/fuse/layout.js'
import { OPCODES, Op, OP_LIMIT } from '../../src/fuse/opcodes.js'
import * as structs from '../../src/fuse/structs.js'
import { abi } from '../../src/sys/index.js'

function isLayout(value: unknown): value is Layout {
  return typeof value === 'object' && value !== null && 'fields' in value && 'size' in value
}

t.test('every struct lies as the compiler lays it', async t => {
  const compiled = abi()
  const declared = Object.values(structs).filter(isLayout)
  t.ok(declared.length > 50, `${declared.length} structs`)
  for (const struct of declared) {
    if (struct.name.includes('(compat)')) continue
    const native = compiled[struct.name]
    if (native === undefined) {
      t.fail(`${struct.name} is not exported by the addon`)
      continue
    }
    t.equal(struct.size, native.size, struct.name)
    const fields = Object.entries(struct.fields).map(([name, field]) => [name, [field.offset, field.size]])
    const theirs = Object.entries(native.fields).filter(([name]) => name !== 'name' && name !== 'groups')
    t.strictSame(Object.fromEntries(fields), Object.fromEntries(theirs), struct.name)
  }
})

t.test('the short forms of older kernels are the beginning of the long ones', async t => {
  const pairs: [Layout, Layout][] = [
    [structs.InitInCompat, structs.InitIn],
    [structs.SetxattrInCompat, structs.SetxattrIn],
  ]
  for (const [short, long] of pairs) {
    for (const [name, at] of Object.entries(short.at)) t.equal(at, long.at[name], `${long.name}.${name}`)
    t.ok(short.size < long.size)
  }
})

t.test('a struct whose fields do not add up is refused when it is declared', async t => {
  t.throws(() => layout('short', 8, { a: 'u32' }), /add up to 4 bytes, not 8/)
  t.throws(() => layout('crooked', 12, { a: 'u32', b: 'u64' }), /not aligned/)
})

t.test(
  'the opcode table has every opcode of 7.45 once, and a reason for what is not implemented',
  async t => {
    const numbers = Object.values(Op)
    t.equal(new Set(numbers).size, numbers.length)
    t.equal(Math.max(...numbers) + 1, OP_LIMIT)
    const missing = [...Array(OP_LIMIT).keys()].filter(op => OPCODES[op] === undefined)
    // The protocol has never used these.
    t.strictSame(missing, [0, 7, 19])
    const silent = OPCODES.filter(info => info?.replied === false).map(info => info?.name)
    t.strictSame(silent.sort(), ['BATCH_FORGET', 'FORGET', 'INTERRUPT', 'NOTIFY_REPLY'])
    for (const info of OPCODES)
      if (info?.unsupported !== undefined) t.ok(info.unsupported.length > 40, info.name)
  },
)
