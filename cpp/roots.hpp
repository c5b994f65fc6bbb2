// Whether every second root of doubles is made by products, where the kernels can: measured, as processors differ.
#pragma once
#include <optional>

namespace schuss {

bool can_make_roots_by_products();  // of the kernels that are used
bool roots_by_products();
void set_roots_by_products(
    std::optional<bool> wanted);  // nothing: what is faster here. For all threads, between steps.

}  // namespace schuss
