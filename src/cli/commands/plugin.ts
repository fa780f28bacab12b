import { join } from 'node:path'
import type { Command } from 'commander'
import { print } from '../output.js'
import { onStore, withStore } from '../store-command.js'

const DEFAULT_SOCKET = '/run/docker/plugins/lamina.sock'

/** `lamina plugin`: servers through which other programs use the store. */
export function register(program: Command): void {
  const plugin = program.command('plugin').description('servers through which other programs use the store')
  onStore(plugin.command('docker-volumes'))
    .description('serve the volumes of the store to Docker and Podman, until Ctrl-C or SIGTERM')
    .option(
      '--socket <path>',
      `where they look for it (default: ${DEFAULT_SOCKET}, for an ordinary user lamina.sock in his runtime directory)`,
    )
    .addHelpText(
      'after',
      `
Examples:
  lamina plugin docker-volumes &
  docker volume create -d lamina data
  docker run -v data:/data --volume-driver lamina debian

Podman: in containers.conf
  [engine.volume_plugins]
  lamina = "${DEFAULT_SOCKET}"`,
    )
    .action(async (options: { socket?: string }, command: Command) => {
      await withStore(command, async (store, signal) => {
        const { serveDockerVolumes } = await import('../../plugins/docker-volumes.js')
        const { ownNamespaces } = await import('../../manager/rootless/standing.js')
        const run = ownNamespaces() === undefined ? undefined : process.env['LAMINA_RUN']
        const socket = options.socket ?? (run === undefined ? DEFAULT_SOCKET : join(run, 'lamina.sock'))
        await serveDockerVolumes(store, socket, signal, () => print(`Listening on ${socket}`))
      })
    })
}
