import fs from 'node:fs'
import { run } from './tool.js'

const SIZE = 8 * 2 ** 30

/**
 * A new ext4 in a file, mounted for one sample. For a while after many files were removed, ext4 takes 250 µs for each that is made, since it
 * passes over every inode that was freed within the last minutes: samples that make files on one disk would measure what the one
 * before has removed, which is the same for all subjects and several times what they cost.
 */
export class NewDisk {
  constructor(
    private readonly image: string,
    private readonly mountpoint: string,
  ) {
    fs.mkdirSync(mountpoint, { recursive: true })
    fs.closeSync(fs.openSync(image, 'w'))
    fs.truncateSync(image, SIZE)
    run('mkfs.ext4', ['-q', '-F', '-m', '0', '-E', 'lazy_itable_init=1,nodiscard', image])
    // What it would do in the background would be measured, too.
    run('mount', ['-o', 'loop,noinit_itable', image, mountpoint])
    fs.chmodSync(mountpoint, 0o755)
  }

  end(): void {
    run('umount', [this.mountpoint])
    fs.unlinkSync(this.image)
  }
}
