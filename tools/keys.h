// Key material: where it comes from, key files, and the key slots of a database.
#pragma once

#include "engine/format/key_slot.h"
#include "engine/store/object_store.h"
#include "tools/options.h"

namespace zerofs::tools {

enum class Purpose : u8 { unlock, create };

// Where a secret may come from, in this order; the environment variable is cleared once read.
struct SecretSource {
  std::string key_file;
  std::string password_file;
  const char* environment = "ZEROFS_PASSWORD";
  const char* prompt = "Password: ";
};

// For `create` a missing key file is made (0600, with a warning what losing it means), and a
// prompt asks twice. Errors: not_found, invalid, denied; a message is printed.
Result<format::KeyMaterial> obtain_key_material(const SecretSource& source, Purpose purpose);

// Draws a data key and stores it in slot 1. Errors: precondition when a slot exists.
Task<format::DataKey> create_key_slot(store::ObjectStore& store, format::KeyMaterial material,
                                      Random& random);
// The numbers of the database's slots, ascending. Errors: not_found (no database there).
Task<std::vector<u64>> find_key_slots(store::ObjectStore& store);
// Tries those slots, the newest first. Errors: denied, invalid, corrupt.
Task<format::DataKey> unlock(store::ObjectStore& store, std::vector<u64> slots,
                             format::KeyMaterial material);
// Wraps the data key anew and removes every older slot.
Task<> replace_key_slots(store::ObjectStore& store, format::DataKey data_key,
                         format::KeyMaterial material, Random& random);

}  // namespace zerofs::tools
