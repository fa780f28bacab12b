// The recovery state's memory as far as the keeper knows it: its size, and the first page.
// src/daemon/recovery/memory.ts has the same offsets, and everything behind them.
#pragma once

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

// Address space, not memory: pages that are never written do not exist.
static const int64_t kStateSize = 512LL << 20;
static const size_t kKeeperPageSize = 4096;

// fuse_in_header of the request that is being served, or was last.
struct keeper_request {
  uint32_t len;
  uint32_t opcode;
  uint64_t unique;
  uint64_t nodeid;
  uint32_t uid;
  uint32_t gid;
  uint32_t pid;
  uint32_t padding;
};

struct keeper_page {
  char magic[8];
  uint32_t version;
  // Moves while the daemon's event loop turns.
  uint32_t beat;
  // By the keeper: how often a daemon died, wait status and time (milliseconds since 1970) of the last death.
  uint32_t deaths;
  uint32_t last_status;
  double last_death;
  uint8_t reserved[32];
  // While 1, what is said of a change is of this request.
  uint32_t serving;
  uint32_t references;
  // Bit 0: a change of upper was announced, and may have been made.
  uint32_t said;
  uint8_t more[1972];
  struct keeper_request request;
};

static_assert(offsetof(struct keeper_page, beat) == 12, "as memory.ts has it");
static_assert(offsetof(struct keeper_page, deaths) == 16, "as memory.ts has it");
static_assert(offsetof(struct keeper_page, last_death) == 24, "as memory.ts has it");
static_assert(offsetof(struct keeper_page, serving) == 64, "as memory.ts has it");
static_assert(offsetof(struct keeper_page, said) == 72, "as memory.ts has it");
static_assert(offsetof(struct keeper_page, request) == 2048, "as memory.ts has it");
static_assert(sizeof(struct keeper_page) <= 4096, "one page");
