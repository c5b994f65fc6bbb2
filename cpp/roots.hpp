// Whether every second root of doubles is made by products, where the kernels can: measured, as processors differ.
#pragma once
#include <optional>

namespace schuss {

bool can_make_roots_by_products();  // of the kernels that are used
bool roots_by_products();
// For all threads, between steps; nothing: what is faster here.
void set_roots_by_products(std::optional<bool> wanted);

}  // namespace schuss
