/**
 * The tables, as a list of migrations: entry N takes a database from user_version N to N + 1. Entries are never
 * edited once released, only added.
 *
 * Who refers to whom decides what can be removed (ON DELETE RESTRICT), so "in use" is kept by SQLite and not by code
 * that could forget it:
 *
 *   tags, repo_digests, manifests -> images -> chains -> layers        (and chains -> parent chains)
 *   containers -> images, chains;  build_cache -> chains;  volume_users -> volumes;  blobs -> layers
 *
 * Units: sizes in bytes, times in milliseconds since 1970, digests as `sha256:HEX`.
 */
export const MIGRATIONS: readonly string[] = [
  `
  -- One stored directory of files: layers/DIR. A row exists exactly when the directory is complete.
  CREATE TABLE layers (
    diff_id   TEXT PRIMARY KEY,
    dir       TEXT NOT NULL UNIQUE,
    size      INTEGER NOT NULL,              -- bytes of regular files, hard links once
    disk      INTEGER NOT NULL,              -- bytes allocated on disk, the tar recipe included
    entries   INTEGER NOT NULL,
    tar_size  INTEGER NOT NULL,              -- bytes of the uncompressed tar whose digest diff_id is
    fingerprint TEXT NOT NULL,               -- of names and metadata: tree-usage.ts
    created   INTEGER NOT NULL
  ) STRICT;

  -- One layer on top of a stack of others. chain_id as in the OCI image spec.
  CREATE TABLE chains (
    chain_id  TEXT PRIMARY KEY,
    diff_id   TEXT NOT NULL REFERENCES layers (diff_id) ON DELETE RESTRICT,
    parent    TEXT REFERENCES chains (chain_id) ON DELETE RESTRICT,
    depth     INTEGER NOT NULL,              -- 1 for a base layer
    size      INTEGER NOT NULL,              -- sum of the sizes of the stack
    pinned    INTEGER NOT NULL DEFAULT 0,    -- 1: made by 'layer create', goes by 'layer rm' alone
    created   INTEGER NOT NULL
  ) STRICT;
  CREATE INDEX chains_parent ON chains (parent);
  CREATE INDEX chains_diff ON chains (diff_id);

  CREATE TABLE images (
    id           TEXT PRIMARY KEY,           -- digest of config
    chain_id     TEXT REFERENCES chains (chain_id) ON DELETE RESTRICT,   -- NULL: an image without layers
    config       BLOB NOT NULL,              -- the bytes that id is the digest of
    os           TEXT NOT NULL,
    architecture TEXT NOT NULL,
    variant      TEXT,
    size         INTEGER NOT NULL,
    created      INTEGER,                    -- what the config says
    added        INTEGER NOT NULL
  ) STRICT;
  CREATE INDEX images_chain ON images (chain_id);

  CREATE TABLE tags (
    name    TEXT PRIMARY KEY,                -- canonical: registry/repository:tag
    image   TEXT NOT NULL REFERENCES images (id) ON DELETE CASCADE,
    changed INTEGER NOT NULL
  ) STRICT;
  CREATE INDEX tags_image ON tags (image);

  -- Manifests by which an image came or went, with the names they have there.
  CREATE TABLE manifests (
    digest     TEXT PRIMARY KEY,
    image      TEXT NOT NULL REFERENCES images (id) ON DELETE CASCADE,
    media_type TEXT NOT NULL,
    content    BLOB NOT NULL
  ) STRICT;
  CREATE INDEX manifests_image ON manifests (image);
  CREATE TABLE repo_digests (
    repository TEXT NOT NULL,                -- registry/repository
    digest     TEXT NOT NULL,                -- of the manifest, or of the index that led to it
    image      TEXT NOT NULL REFERENCES images (id) ON DELETE CASCADE,
    PRIMARY KEY (repository, digest)
  ) STRICT;
  CREATE INDEX repo_digests_image ON repo_digests (image);

  -- Compressed forms of a layer that a registry has: what need not travel.
  CREATE TABLE blobs (
    digest     TEXT PRIMARY KEY,
    diff_id    TEXT NOT NULL REFERENCES layers (diff_id) ON DELETE CASCADE,
    media_type TEXT NOT NULL,
    size       INTEGER NOT NULL
  ) STRICT;
  CREATE INDEX blobs_diff ON blobs (diff_id);
  CREATE TABLE blob_sources (
    digest     TEXT NOT NULL REFERENCES blobs (digest) ON DELETE CASCADE,
    registry   TEXT NOT NULL,
    repository TEXT NOT NULL,
    PRIMARY KEY (digest, registry, repository)
  ) STRICT;

  -- What a build step made of a stack: 'key' is the digest of (parent chain and config, instruction, content).
  CREATE TABLE build_cache (
    key         TEXT PRIMARY KEY,
    chain_id    TEXT REFERENCES chains (chain_id) ON DELETE RESTRICT,   -- NULL: still no layer
    config      TEXT NOT NULL,               -- JSON of the image config after the step
    instruction TEXT NOT NULL,
    used        INTEGER NOT NULL
  ) STRICT;
  CREATE INDEX build_cache_chain ON build_cache (chain_id);

  -- One writable layer: containers/ID.
  CREATE TABLE containers (
    id        TEXT PRIMARY KEY,              -- 64 hex
    name      TEXT NOT NULL UNIQUE,
    image     TEXT REFERENCES images (id) ON DELETE RESTRICT,
    chain_id  TEXT REFERENCES chains (chain_id) ON DELETE RESTRICT,
    driver    TEXT NOT NULL,
    labels    TEXT NOT NULL DEFAULT '{}',
    spec      TEXT NOT NULL DEFAULT '{}',    -- JSON: what create was asked for
    created   INTEGER NOT NULL
  ) STRICT;
  CREATE INDEX containers_image ON containers (image);
  CREATE INDEX containers_chain ON containers (chain_id);

  CREATE TABLE volumes (
    name      TEXT PRIMARY KEY,
    anonymous INTEGER NOT NULL DEFAULT 0,
    options   TEXT NOT NULL DEFAULT '{}',
    labels    TEXT NOT NULL DEFAULT '{}',
    dir       TEXT NOT NULL UNIQUE,          -- directory name under volumes/: a rename moves nothing
    filled    INTEGER NOT NULL DEFAULT 0,    -- 1: the image's content has been copied in
    created   INTEGER NOT NULL
  ) STRICT;
  CREATE TABLE volume_users (
    volume    TEXT NOT NULL REFERENCES volumes (name) ON UPDATE CASCADE ON DELETE RESTRICT,
    container TEXT NOT NULL REFERENCES containers (id) ON DELETE CASCADE,
    target    TEXT NOT NULL,
    PRIMARY KEY (container, target)
  ) STRICT;
  CREATE INDEX volume_users_volume ON volume_users (volume);

  -- Mounts that the store made. Rows of an earlier boot say nothing any more; the truth is /proc/self/mountinfo.
  CREATE TABLE mounts (
    target    TEXT PRIMARY KEY,              -- absolute path
    kind      TEXT NOT NULL,                 -- 'image' or 'container'
    container TEXT REFERENCES containers (id) ON DELETE RESTRICT,
    chain_id  TEXT REFERENCES chains (chain_id) ON DELETE RESTRICT,
    driver    TEXT NOT NULL,
    users     INTEGER NOT NULL,              -- how many asked for it
    boot      TEXT NOT NULL,                 -- /proc/sys/kernel/random/boot_id
    created   INTEGER NOT NULL
  ) STRICT;
  CREATE INDEX mounts_container ON mounts (container);
  CREATE INDEX mounts_chain ON mounts (chain_id);

  -- What a running command needs though nothing refers to it yet: see leases.ts.
  CREATE TABLE leases (
    id       TEXT NOT NULL,
    diff_id  TEXT REFERENCES layers (diff_id) ON DELETE RESTRICT,
    chain_id TEXT REFERENCES chains (chain_id) ON DELETE RESTRICT
  ) STRICT;
  CREATE INDEX leases_id ON leases (id);
  CREATE INDEX leases_diff ON leases (diff_id);
  CREATE INDEX leases_chain ON leases (chain_id);

  -- Whole trees that a driver keeps for a stack (btrfs: one read-only subvolume a chain).
  CREATE TABLE snapshots (
    driver    TEXT NOT NULL,
    chain_id  TEXT NOT NULL REFERENCES chains (chain_id) ON DELETE CASCADE,
    dir       TEXT NOT NULL,
    created   INTEGER NOT NULL,
    PRIMARY KEY (driver, chain_id)
  ) STRICT;
  `,
  `
  -- Who has a volume mounted now. 'container:ID' is true while the kernel shows that container's rootfs, 'plugin:ID'
  -- from Mount to Unmount, or while the client or a container of its has it; rows of an earlier boot say nothing any more.
  CREATE TABLE volume_mounts (
    volume    TEXT NOT NULL REFERENCES volumes (name) ON UPDATE CASCADE ON DELETE RESTRICT,
    user      TEXT NOT NULL,
    boot      TEXT NOT NULL,                 -- /proc/sys/kernel/random/boot_id
    PRIMARY KEY (volume, user)
  ) STRICT;
  `,
  `
  -- A mount that ends with the command it was made for. The lease is the command's claim: where nobody holds it, the command
  -- died, and the next one ends what it began.
  CREATE TABLE container_uses (
    lease     TEXT PRIMARY KEY,
    container TEXT NOT NULL REFERENCES containers (id) ON DELETE CASCADE,
    remove    INTEGER NOT NULL,              -- 1: the container goes with the command (run --rm)
    process   TEXT                           -- JSON: what runs in it, to be reached by exec and ended by a sweep
  ) STRICT;
  CREATE INDEX container_uses_container ON container_uses (container);
  `,
  `
  -- 1: the blob itself lies beside its layer's tree (kept-blobs.ts).
  ALTER TABLE blobs ADD COLUMN kept INTEGER NOT NULL DEFAULT 0;
  `,
  `
  -- 0: this use is not, or not any more, one of mounts.users.
  ALTER TABLE container_uses ADD COLUMN counted INTEGER NOT NULL DEFAULT 1;
  `,
  `
  -- The lease of the command that makes it for a container that has no row yet, or removes it with a container that has none any
  -- more: it goes with the command.
  ALTER TABLE volumes ADD COLUMN made_by TEXT;
  `,
  `
  -- The last time that a command ran in a container. Outlives the container by an hour, for whoever waits for its end.
  CREATE TABLE container_runs (
    container TEXT PRIMARY KEY,
    started   INTEGER NOT NULL,
    finished  INTEGER,                       -- NULL: it runs, or nobody saw its end
    code      INTEGER                        -- exit code, as 'run' gives it
  ) STRICT;
  `,
  `
  -- Of 'plugin:ID': the process that asked, 'PID/START' as plugin-clients.ts has it. NULL: not known.
  ALTER TABLE volume_mounts ADD COLUMN client TEXT;
  `,
  `
  -- The manifest by which the image came under this name, or went. NULL: none.
  ALTER TABLE tags ADD COLUMN manifest TEXT REFERENCES manifests (digest) ON DELETE SET NULL;
  `,
]
