// Comparison of a text that may be a temporary: Check's macros look at their arguments after the end of the expression.
#pragma once

#include <string>

#include <check.h>  // last: it defines fail()

inline void assert_text(const std::string& have, const char* want) { ck_assert_str_eq(have.c_str(), want); }
