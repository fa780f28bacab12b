// The addon's entry: one State per environment, then every source file registers its functions.
//
// Conventions of every wrapper: arguments are checked (args.h), the result is the syscall's value or -errno, and
// nothing is thrown but TypeError for an argument of the wrong type. src/sys makes errors of the numbers.
#include <node_api.h>

#include <new>

#include "env.h"
#include "register.h"

namespace lamina {

bool define(napi_env env, napi_value exports, State* state, const char* name, napi_callback callback) {
  napi_value function = nullptr;
  return napi_create_function(env, name, NAPI_AUTO_LENGTH, callback, state, &function) == napi_ok &&
         napi_set_named_property(env, exports, name, function) == napi_ok;
}

namespace {

void stop(void* data) { static_cast<State*>(data)->stopping->store(true); }

void destroy(napi_env, void* data, void*) { delete static_cast<State*>(data); }

napi_value fail(napi_env env) {
  bool pending = false;
  if (napi_is_exception_pending(env, &pending) == napi_ok && !pending) {
    napi_throw_error(env, nullptr, "the lamina addon could not be initialised");
  }
  return nullptr;
}

napi_value init(napi_env env, napi_value exports) {
  State* state = new (std::nothrow) State();
  if (state == nullptr) return fail(env);
  if (napi_set_instance_data(env, state, destroy, nullptr) != napi_ok) {
    delete state;
    return fail(env);
  }
  if (napi_add_env_cleanup_hook(env, stop, state) != napi_ok) return fail(env);

  const bool ok = register_abi(env, exports, state) &&       //
                  register_account(env, exports, state) &&   //
                  register_attr(env, exports, state) &&      //
                  register_channel(env, exports, state) &&   //
                  register_cred(env, exports, state) &&      //
                  register_dir(env, exports, state) &&       //
                  register_file(env, exports, state) &&      //
                  register_handle(env, exports, state) &&    //
                  register_jobs(env, exports, state) &&      //
                  register_journal(env, exports, state) &&   //
                  register_js_stack(env, exports, state) &&  //
                  register_map(env, exports, state) &&       //
                  register_mount(env, exports, state) &&     //
                  register_name(env, exports, state) &&      //
                  register_orphan_holder(env, exports, state) &&
                  register_patience(env, exports, state) &&  //
                  register_process(env, exports, state) &&   //
                  register_socket(env, exports, state) &&    //
                  register_watch(env, exports, state) && register_xattr(env, exports, state);
  return ok ? exports : fail(env);
}

}  // namespace
}  // namespace lamina

NAPI_MODULE_INIT() { return lamina::init(env, exports); }
