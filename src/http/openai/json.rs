//! A JSON body: words, and in edits pictures as `data:` URLs or bare base64. Nothing is fetched from
//! the web.

use std::{io::Read, path::Path};

use struson::reader::ValueType;

use super::{
    super::{
        error::ApiError,
        intake::{Draft, Place, invalid, json::Json, tidy},
    },
    fields::{Fields, PictureField, Route, Wish, picture_field, word},
};

/// Reads a whole body; pictures are written to `folder`, which is made for the first of them. On an
/// error the folder is removed.
pub(super) fn read(
    route: Route,
    max_n: u32,
    body: impl Read,
    folder: &Path,
) -> Result<(Draft, Wish), ApiError> {
    let mut fields = Fields::new(route, max_n, folder);
    let read = Json::read(body, |json, name| member(&mut fields, json, name));
    tidy(folder, read.and_then(|()| fields.check()))
}

fn member<R: Read>(fields: &mut Fields, json: &mut Json<R>, name: &str) -> Result<(), ApiError> {
    if let Some((name, limit)) = word(name) {
        if let Some(value) = json.scalar(name, limit)? {
            fields.set(name, value)?;
        }
        return Ok(());
    }
    match picture_field(name) {
        Some(field) if fields.route() == Route::Edits => pictures(fields, json, field),
        Some(_) if json.peek()? == ValueType::Null => json.null(),
        field => {
            field.inspect(|field| fields.pass_over(*field));
            json.skip()
        }
    }
}

/// One picture or a list of them.
fn pictures<R: Read>(
    fields: &mut Fields,
    json: &mut Json<R>,
    field: PictureField,
) -> Result<(), ApiError> {
    if json.peek()? == ValueType::Array {
        let place = fields.place(field)?;
        return json.items(place.param, |json, _| picture(fields, json, field));
    }
    picture(fields, json, field)
}

/// A string, or an object with an `image_url`.
fn picture<R: Read>(
    fields: &mut Fields,
    json: &mut Json<R>,
    field: PictureField,
) -> Result<(), ApiError> {
    match json.peek()? {
        ValueType::Null => json.null(),
        ValueType::String => {
            let place = fields.place(field)?;
            text(fields, json, field, &place)
        }
        ValueType::Object => {
            let mut place = fields.place(field)?;
            let before = (fields.images.len(), fields.mask.is_some());
            place.name += ".image_url";
            json.members(&mut |json: &mut Json<R>, name: &str| match name {
                // Some wrap it once more, as in chat messages.
                "image_url" if json.peek()? == ValueType::Object => {
                    json.members(&mut |json: &mut Json<R>, name: &str| match name {
                        "url" => text(fields, json, field, &place),
                        _ => json.skip(),
                    })
                }
                "image_url" if json.peek()? == ValueType::String => {
                    text(fields, json, field, &place)
                }
                "file_id" if json.peek()? != ValueType::Null => Err(place.refuse_for(
                    "'file_id' is not supported: there is no Files API here. Send the picture.",
                )),
                _ => json.skip(),
            })?;
            if (fields.images.len(), fields.mask.is_some()) == before {
                return Err(place.refuse_for("It must be a data: URL with base64."));
            }
            Ok(())
        }
        _ => {
            let place = fields.place(field)?;
            Err(invalid(place.param, "Must be a data: URL or an object with an 'image_url'."))
        }
    }
}

fn text<R: Read>(
    fields: &mut Fields,
    json: &mut Json<R>,
    field: PictureField,
    place: &Place,
) -> Result<(), ApiError> {
    // An object may hold its member twice.
    fields.place(field)?;
    let found = json.picture(fields.folder(), place).map_err(|error| match error {
        ApiError::BadReference { param, place, reason } => ApiError::BadReference {
            param,
            place,
            // An address of the web is no base64, and most who send one do not know.
            reason: reason.replace(
                "is not valid base64.",
                "is not valid base64 (a data: URL or bare; web addresses are not fetched).",
            ),
        },
        other => other,
    })?;
    match found {
        Some(picture) => fields.add(field, picture),
        None => return Err(place.refuse_for("The reference image is empty.")),
    }
    Ok(())
}
