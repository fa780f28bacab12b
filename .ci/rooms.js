import { dirname, relative, resolve, sep } from 'node:path'

/**
 * Who may import whom. The arrows only go down this list (ARCHITECTURE.md, "Rooms").
 *
 * A room may always import itself. `types:ROOM` allows `import type` only; `ROOM/file` allows that one file, the
 * public face of a room.
 */
export const ARROWS = {
  base: [],
  sys: ['base'],
  format: ['sys', 'base'],
  fuse: ['sys', 'base'],
  overlay: ['format', 'sys', 'base', 'types:fuse', 'fuse/filesystem'],
  daemon: ['overlay', 'format', 'fuse', 'sys', 'base'],
  oci: ['format', 'sys', 'base'],
  manager: ['oci', 'format', 'sys', 'base', 'types:overlay', 'daemon/client'],
  plugins: ['manager', 'daemon/client', 'base'],
  cli: ['plugins', 'manager', 'oci', 'format', 'sys', 'base', 'types:overlay', 'daemon/client'],
  index: ['manager', 'format', 'base', 'types:overlay', 'daemon/client'],
}

/** The room of a file below src/ (`index` for src/index.ts itself), or undefined elsewhere. */
function roomOf(file, root) {
  const path = relative(resolve(root, 'src'), file).split(sep)
  if (path[0] === '..' || path[0] === '') return undefined
  return path.length === 1 ? path[0].replace(/\.[jt]s$/, '') : path[0]
}

export const rooms = {
  meta: {
    type: 'problem',
    schema: [{ type: 'object', properties: { root: { type: 'string' } }, required: ['root'] }],
    messages: {
      arrow:
        '{{from}} may not import {{to}}: the arrows between rooms go one way (ARCHITECTURE.md, .ci/rooms.js)',
      type: '{{from}} may import types of {{to}} only: write `import type`',
      face: '{{from}} may import of {{to}} only {{faces}}',
      unknown: 'src/{{from}} is not a room: give it its arrows in .ci/rooms.js',
    },
  },
  create(context) {
    const { root } = context.options[0]
    const from = roomOf(context.filename, root)
    if (from === undefined) return {}

    function check(node, source, typeOnly) {
      if (source === null || source === undefined || typeof source.value !== 'string') return
      if (!source.value.startsWith('.')) return
      const target = resolve(dirname(context.filename), source.value)
      const to = roomOf(target, root)
      if (to === undefined || to === from) return
      const allowed = ARROWS[from]
      if (allowed === undefined) return context.report({ node, messageId: 'unknown', data: { from } })
      if (allowed.includes(to)) return
      const file = relative(resolve(root, 'src'), target).replace(/\.[jt]s$/, '')
      if (allowed.includes(file)) return
      if (allowed.includes(`types:${to}`)) {
        if (!typeOnly) context.report({ node, messageId: 'type', data: { from, to } })
        return
      }
      const faces = allowed.filter(a => a.startsWith(`${to}/`)).join(', ')
      context.report({ node, messageId: faces === '' ? 'arrow' : 'face', data: { from, to, faces } })
    }

    const named = node =>
      node.importKind === 'type' ||
      node.exportKind === 'type' ||
      (node.specifiers?.length > 0 &&
        node.specifiers.every(s => s.importKind === 'type' || s.exportKind === 'type'))
    return {
      ImportDeclaration: node => check(node, node.source, named(node)),
      ExportNamedDeclaration: node => check(node, node.source, named(node)),
      ExportAllDeclaration: node => check(node, node.source, named(node)),
      ImportExpression: node => check(node, node.source, false),
    }
  },
}
