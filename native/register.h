// One function per source file; each adds its functions to the addon's exports.
#pragma once

#include "env.h"

namespace lamina {

bool register_abi(napi_env env, napi_value exports, State* state);
bool register_account(napi_env env, napi_value exports, State* state);
bool register_attr(napi_env env, napi_value exports, State* state);
bool register_channel(napi_env env, napi_value exports, State* state);
bool register_cred(napi_env env, napi_value exports, State* state);
bool register_dir(napi_env env, napi_value exports, State* state);
bool register_file(napi_env env, napi_value exports, State* state);
bool register_handle(napi_env env, napi_value exports, State* state);
bool register_jobs(napi_env env, napi_value exports, State* state);
bool register_journal(napi_env env, napi_value exports, State* state);
bool register_js_stack(napi_env env, napi_value exports, State* state);
bool register_map(napi_env env, napi_value exports, State* state);
bool register_mount(napi_env env, napi_value exports, State* state);
bool register_name(napi_env env, napi_value exports, State* state);
bool register_orphan_holder(napi_env env, napi_value exports, State* state);
bool register_patience(napi_env env, napi_value exports, State* state);
bool register_process(napi_env env, napi_value exports, State* state);
bool register_socket(napi_env env, napi_value exports, State* state);
bool register_watch(napi_env env, napi_value exports, State* state);
bool register_xattr(napi_env env, napi_value exports, State* state);

}  // namespace lamina
