// An account as an argument from JavaScript.
#pragma once

#include <memory>

#include "account.h"
#include "args.h"

namespace lamina {

// The account behind the external value that accountOpen() made; nullptr with a TypeError pending for anything else.
std::shared_ptr<Account> account_of(Args& args, size_t i);

}  // namespace lamina
