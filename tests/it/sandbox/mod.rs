//! The fence around what tenants send: what must not get out, as attempts from inside, each under root and under a plain user. `cage` is what
//! they stand on; whatever this machine cannot show is named and not passed.

mod cage;
mod runner; // tools made from functions, results, the protocol's descriptors

use cage::as_both;
