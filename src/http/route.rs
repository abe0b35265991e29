//! From method and path to an endpoint. The table is built once, from what `handlers` list.

use super::{endpoint::Endpoint, handlers};
use crate::error::{Error, Result};
use std::sync::LazyLock;

/// Endpoints of one path.
struct Place {
    endpoints: Vec<Endpoint>,
    /// For `Allow`.
    methods: String,
}

/// All endpoints, to be found by path.
pub struct Table {
    router: matchit::Router<usize>,
    places: Vec<Place>,
    /// In the order of the documentation.
    order: Vec<(usize, usize)>,
}

/// An endpoint, and the parameters in its path.
pub(super) struct Found {
    pub(super) endpoint: &'static Endpoint,
    pub(super) path: Vec<(&'static str, String)>,
}

/// The server's endpoints.
pub fn table() -> Result<&'static Table> {
    static TABLE: LazyLock<Result<Table>> = LazyLock::new(|| Table::new(handlers::endpoints()));
    TABLE.as_ref().map_err(Clone::clone)
}

impl Table {
    pub(super) fn new(endpoints: Vec<Endpoint>) -> Result<Self> {
        let (mut router, mut places, mut order) = (matchit::Router::new(), Vec::<Place>::new(), Vec::new());
        for endpoint in endpoints {
            let known = places.iter().position(|place| place.endpoints.iter().any(|other| other.path == endpoint.path));
            let index = match known {
                Some(index) => index,
                None => {
                    router.insert(endpoint.path, places.len()).map_err(|error| Error::internal(format!("{}: {error}", endpoint.path)))?;
                    places.push(Place { endpoints: Vec::new(), methods: String::new() });
                    places.len() - 1
                }
            };
            let Some(place) = places.get_mut(index) else { continue };
            if place.endpoints.iter().any(|other| other.method == endpoint.method) {
                return Err(Error::internal(format!("{} {} stands twice in the table", endpoint.method, endpoint.path)));
            }
            order.push((index, place.endpoints.len()));
            place.endpoints.push(endpoint);
            place.methods = methods(&place.endpoints);
        }
        Ok(Self { router, places, order })
    }

    /// All endpoints, in the order of the documentation.
    pub fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        self.order.iter().filter_map(|(place, n)| self.places.get(*place)?.endpoints.get(*n))
    }

    /// The endpoint of a request. Paths are taken as they are: no slash is added or dropped, nothing is decoded.
    pub(super) fn find(&'static self, method: &str, path: &str) -> Result<Found> {
        let hit = self.router.at(path).map_err(|_| Error::NoSuchRoute)?;
        let place = self.places.get(*hit.value).ok_or(Error::NoSuchRoute)?;
        let answering = |endpoint: &&Endpoint| endpoint.method == method || (method == "HEAD" && heads(endpoint));
        let endpoint = place.endpoints.iter().find(answering).ok_or_else(|| Error::MethodNotAllowed { allowed: place.methods.clone() })?;
        Ok(Found { endpoint, path: hit.params.iter().map(|(name, value)| (name, value.to_owned())).collect() })
    }
}

/// Whether HEAD is answered like GET: not where the answer is a stream, which has no size and would do work for nothing.
fn heads(endpoint: &Endpoint) -> bool {
    endpoint.method == "GET" && !endpoint.answers.iter().any(|(_, media_type, _)| *media_type == "text/event-stream")
}

fn methods(endpoints: &[Endpoint]) -> String {
    let mut methods: Vec<_> = endpoints.iter().map(|endpoint| endpoint.method).collect();
    if endpoints.iter().any(heads) {
        methods.push("HEAD");
    }
    methods.sort_unstable();
    methods.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sound_and_finds_every_endpoint_of_its_own() {
        let table = table().unwrap();
        for endpoint in table.endpoints() {
            let path: Vec<_> = endpoint.path.split('/').map(|part| if part.starts_with('{') { "x" } else { part }).collect();
            let found = table.find(endpoint.method, &path.join("/")).unwrap();
            assert_eq!((found.endpoint.name, found.endpoint.path), (endpoint.name, endpoint.path));
        }
    }

    #[test]
    fn unknown_paths_and_methods_are_told_apart() {
        let table = table().unwrap();
        assert!(matches!(table.find("GET", "/api/v1/nothing"), Err(Error::NoSuchRoute)));
        assert!(matches!(table.find("GET", "/healthz/"), Err(Error::NoSuchRoute)));
        let Err(Error::MethodNotAllowed { allowed }) = table.find("POST", "/healthz") else { panic!() };
        assert_eq!(allowed, "GET, HEAD");
        assert_eq!(table.find("HEAD", "/healthz").unwrap().endpoint.name, "Healthz");
    }
}
