// Results of the emulator as JSON.
#pragma once

#include <string>

#include "emulator/ptx/machine.h"

namespace gptoss::emulator {

std::string to_json(const Counters& counters);
std::string to_json(const Report& report);
std::string to_json(const LaunchResult& result);
// The table of instruction forms.
std::string forms_json();
// What of a PTX file the emulator knows: instructions, how many of each row of the table, and
// those that no row matches, with their lines.
std::string coverage_json(const std::string& ptx);

}  // namespace gptoss::emulator
