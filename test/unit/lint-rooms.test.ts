import { Linter } from 'eslint'
import { dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'
// Plain JavaScript that eslint.config.js loads; it has no types.
// @ts-expect-error no declaration file
import { rooms } from '../../../.ci/rooms.js'

const root = resolve(dirname(fileURLToPath(import.meta.url)), '../../..')

/** What the rule says about `code` standing in `file`. */
function lint(file: string, code: string): string[] {
  const linter = new Linter({ cwd: root })
  const config: Linter.Config = {
    files: ['**/*.js'],
    plugins: { lamina: { rules: { rooms: rooms as never } } },
    rules: { 'lamina/rooms': ['error', { root }] },
  }
  return linter.verify(code, [config], { filename: join(root, file) }).map(message => message.message)
}

t.test('an import up the list of rooms is refused', async t => {
  t.match(lint('src/base/x.js', `import { a } from '../sys/index.js'`), [/base may not import sys/])
  t.match(lint('src/format/x.js', `export * from '../overlay/index.js'`), [/format may not import overlay/])
  t.match(lint('src/oci/x.js', `await import('../manager/store.js')`), [/oci may not import manager/])
  t.match(lint('src/overlay/deep/x.js', `import '../../daemon/main.js'`), [/overlay may not import daemon/])
})

t.test('an import down the list is fine, and so is one inside the room', async t => {
  t.strictSame(lint('src/sys/x.js', `import { E } from '../base/errno.js'; import './y.js'`), [])
  t.strictSame(lint('src/daemon/x.js', `import { Overlay } from '../overlay/index.js'`), [])
  t.strictSame(lint('src/cli/commands/x.js', `import { print } from '../output.js'`), [])
  t.strictSame(lint('test/mount/x.js', `import { Overlay } from '../../src/overlay/index.js'`), [])
})

t.test('where types are allowed, values are not', async t => {
  t.match(lint('src/overlay/x.js', `import { Session } from '../fuse/session.js'`), [/import type/])
  t.strictSame(lint('src/overlay/x.js', `import { Again } from '../fuse/filesystem.js'`), [])
})

t.test('of the daemon, only its public face is for others', async t => {
  t.match(lint('src/cli/x.js', `import { serve } from '../daemon/serve.js'`), [/only daemon\/client/])
  t.strictSame(lint('src/cli/x.js', `import { launch } from '../daemon/client.js'`), [])
})

t.test('a new directory below src needs its arrows', async t => {
  t.match(lint('src/attic/x.js', `import { E } from '../base/errno.js'`), [/not a room/])
})
